"""An LSTM and a GRU that learn to add up marked numbers: packed sequences, hooks, gradient clipping, a scheduler."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(4)


class Adder(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells = kind(2, 16, num_layers=2, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.cells(packed)[0], batch_first=True)
        last = outputs[torch.arange(len(lengths), device=x.device), lengths.to(x.device) - 1]
        return self.head(last).squeeze(1)


def examples(count):
    lengths = torch.randint(4, 9, (count,))
    x = torch.zeros(count, 8, 2)
    for row, length in zip(x, lengths.tolist(), strict=True):
        row[:length, 0] = torch.rand(length)
        row[torch.randperm(length)[:2], 1] = 1
    return x, lengths, (x[..., 0] * x[..., 1]).sum(1)


for kind in (nn.LSTM, nn.GRU):
    model = Adder(kind).to(device)
    seen = []
    model.head.register_forward_hook(lambda module, args, output, seen=seen: seen.append(tuple(output.shape)))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5)
    for _ in range(20):
        x, lengths, sums = examples(16)
        loss = nn.functional.mse_loss(model(x.to(device), lengths), sums.to(device))
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"{kind.__name__} loss {loss.item():.5f} norm {norm.item():.4f} hooks {len(seen)} {seen[0]}")
