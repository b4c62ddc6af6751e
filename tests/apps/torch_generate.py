"""Trains a small GPT on a repeated text, then generates greedily and by sampling, with a cache of keys and values."""

import torch
from torch import nn
from torch.nn import functional as F

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(1)
TEXT = "the quick brown fox jumps over the lazy dog. " * 8
letters = sorted(set(TEXT))
tokens = torch.tensor([letters.index(each) for each in TEXT])


class Layer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x, cache=None):
        b, t, c = x.shape
        q, k, v = (each.view(b, t, self.heads, -1).transpose(1, 2) for each in self.qkv(self.norm1(x)).chunk(3, -1))
        if cache is not None:
            if cache:
                k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
            cache[:] = [k, v]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, c))
        return x + self.feed(self.norm2(x))


class Model(nn.Module):
    def __init__(self, width=32, heads=4, layers=2, context=128):
        super().__init__()
        self.embed, self.place = nn.Embedding(len(letters), width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(letters))

    def forward(self, x, caches=None, start=0):
        h = self.embed(x) + self.place(torch.arange(start, start + x.shape[1], device=x.device))
        for number, layer in enumerate(self.layers):
            h = layer(h, None if caches is None else caches[number])
        return self.head(self.norm(h))


model = Model().to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(40):
    starts = torch.randint(0, len(tokens) - 33, (8,)).tolist()
    batch = torch.stack([tokens[start : start + 33] for start in starts]).to(device)
    loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        print(f"step {step} loss {loss.item():.4f}")


@torch.inference_mode()
def generate(prompt, length, temperature=0.0):
    model.eval()
    caches = [[] for _ in model.layers]
    x = torch.tensor([[letters.index(each) for each in prompt]], device=device)
    found, start = [], 0
    for _ in range(length):
        logits = model(x, caches, start)[:, -1]
        start += x.shape[1]
        if temperature:
            x = torch.multinomial(torch.softmax(logits / temperature, -1).cpu(), 1).to(device)
        else:
            x = logits.argmax(-1, keepdim=True)
        found.append(x.item())
    return "".join(letters[each] for each in found)


print("greedy", generate("the quick", 24))
torch.manual_seed(2)
print("sampled", generate("the", 24, temperature=0.3))
