"""Train a character-level GPT on a poem in seconds on an NVIDIA GPU, and let it write.

    python generate.py [--text FILE] [--steps N] [--length N] [--prompt TEXT] [--temperature T] [--weights FILE]

With --weights the trained model is kept, and a second start writes at once. A plain PyTorch program.
"""

import argparse
import os
import time

import torch
from torch import nn
from torch.nn import functional as F

CONTEXT = 64
# William Shakespeare, Sonnet 18 (1609).
POEM = """Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.
"""


class Layer(nn.Module):
    """Attention to what came before, then a small network for each place."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        count, places, width = x.shape
        q, k, v = (
            each.view(count, places, self.heads, -1).transpose(1, 2) for each in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).reshape(count, places, width)))
        return x + self.dropout(self.feed(self.norm2(x)))


class Writer(nn.Module):
    """Tells what letter comes next, for each letter of a text."""

    def __init__(self, letters, width=128, heads=4, layers=3):
        super().__init__()
        self.letter, self.place = nn.Embedding(letters, width), nn.Embedding(CONTEXT, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, x):
        h = self.letter(x) + self.place(torch.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.layers(h)))


def train(model, tokens, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=tokens.is_cuda)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        starts = torch.randint(len(tokens) - CONTEXT, (32, 1), device=tokens.device)
        batch = tokens[starts + torch.arange(CONTEXT + 1, device=tokens.device)]
        with torch.autocast(tokens.device.type, torch.bfloat16):
            loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 or step == steps:
            print(f"step {step} loss {loss.item():.3f} after {time.perf_counter() - began:.1f} s", flush=True)


@torch.inference_mode()
def write(model, tokens, length, temperature):
    """Letter after letter, each drawn from what the model expects."""
    for _ in range(length):
        logits = model(tokens[:, -CONTEXT:])[:, -1]
        if temperature:
            chosen = torch.multinomial(torch.softmax(logits / temperature, -1), 1)
        else:
            chosen = logits.argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, chosen], 1)
        yield chosen.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", help="a text file to learn; by default a sonnet")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--length", type=int, default=200, help="letters to write")
    parser.add_argument("--prompt", default="Shall I compare ")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest letter each time")
    parser.add_argument("--weights", help="a file to keep the trained model in, and to read it from")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    text = POEM
    if options.text:
        with open(options.text, encoding="utf-8") as file:
            text = file.read()
    letters = sorted(set(text + options.prompt))
    model = Writer(len(letters)).to(device)
    if options.weights and os.path.exists(options.weights):
        model.load_state_dict(torch.load(options.weights, map_location=device, weights_only=True))
    else:
        train(model, torch.tensor([letters.index(each) for each in text], device=device), options.steps)
        if options.weights:
            torch.save(model.state_dict(), options.weights)
    model.eval()
    prompt = torch.tensor([[letters.index(each) for each in options.prompt]], device=device)
    began = time.perf_counter()
    print(options.prompt, end="", flush=True)
    for token in write(model, prompt, options.length, options.temperature):
        print(letters[token], end="", flush=True)
    print(f"\n{options.length / (time.perf_counter() - began):.0f} letters per second")


if __name__ == "__main__":
    main()
