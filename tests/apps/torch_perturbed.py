"""Does the same step some times over, then others, at random: shapes, branches, floats, order, what is kept alive.

Prints what it reads, as it reads it; the seed and the count of steps decide on all of it. Now and then everything is
made anew, so that differences in the last bits do not grow until they decide.
"""

import argparse
import gc
import hashlib
import os
import random
from collections import Counter

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which deterministic products want on a GPU

import torch
import torch.nn.functional as F
from torch import nn

EPISODE = 60  # steps, after which all is made anew
KEPT = 12  # tensors that outlive their step

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.use_deterministic_algorithms(True, warn_only=True)
torch.backends.cudnn.deterministic = True


class Interrupted(Exception):
    """Raised in the middle of a step."""


class Perceptron(nn.Module):
    """Linear layers, with statistics and dropped units."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(12, 24), nn.BatchNorm1d(24), nn.Dropout(0.2)
        self.second, self.last = nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x, deep):
        x = self.drop(F.relu(self.norm(self.first(x))))
        for _ in range(deep):
            x = x + 0.5 * torch.tanh(self.second(x))
        return self.last(x)


class Convolutional(nn.Module):
    """Convolutions on pictures of any size."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.last = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 5)

    def forward(self, x, deep):
        x = F.silu(self.norm(self.first(x)))
        for _ in range(deep):
            x = x + F.relu(self.second(x))
        return self.last(F.avg_pool2d(x, 2).mean((2, 3)))


class Attending(nn.Module):
    """Attention over tokens, causal or not."""

    def __init__(self):
        super().__init__()
        self.tokens, self.norm = nn.Embedding(20, 16), nn.LayerNorm(16)
        self.projections, self.mixed, self.last = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, tokens, deep):
        x = self.tokens(tokens)
        for _ in range(deep):
            q, k, v = self.projections(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
            scores = q @ k.transpose(-1, -2) / 8**0.5
            x = x + self.mixed((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.last(x.mean(1))


class Program:
    """What lives from step to step."""

    def __init__(self, seed, exact):
        self.exact = exact
        self.random = random.Random(seed)
        self.host = torch.Generator().manual_seed(seed)
        self.step = 0
        self.counts = Counter()

    def say(self, name, value):
        """Print a value that was read, by its size: sums of what cancels out would say nothing."""
        value = torch.as_tensor(value)
        sizes = value.double().abs()
        mean, largest = (sizes.mean().item(), sizes.max().item()) if value.numel() else (0.0, 0.0)
        shape = "x".join(map(str, value.shape))
        line = f"{self.step} {name} [{shape}] {mean:.4f} {largest:.4f}"
        if self.exact:
            line += " " + hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()[:16]
        print(line)
        self.counts["read"] += 1

    def begin(self):
        """Make everything anew."""
        choose = self.random
        torch.manual_seed(choose.randrange(1 << 30))
        self.nets = [Perceptron().to(device), Convolutional().to(device), Attending().to(device)]
        self.optimizers = [self.optimizer(net) for net in self.nets]
        self.average = [each.detach().clone() for each in self.nets[0].parameters()]
        self.kept = []
        self.table = torch.zeros(32, 16, device=device)
        self.generator = torch.Generator(device).manual_seed(choose.randrange(1 << 30))
        torch.manual_seed(choose.randrange(1 << 30))  # the layers' first values have been drawn on the host

    def optimizer(self, net):
        rate = self.random.choice((0.002, 0.005))
        match self.random.randrange(4):
            case 0:
                return torch.optim.SGD(net.parameters(), lr=rate)
            case 1:
                return torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=0.01)
            case 2:
                return torch.optim.AdamW(net.parameters(), lr=rate / 4, eps=1e-4)
            case _:
                return torch.optim.AdamW(net.parameters(), lr=rate / 4, eps=1e-4, foreach=False)

    def plan(self):
        """Choose what a step does; it may be done many times."""
        choose = self.random
        return {
            "nets": choose.sample(range(3), choose.choice((1, 1, 2, 3))),
            "batch": choose.choice((3, 4, 4, 4, 7)),
            "side": choose.choice((6, 6, 8)),
            "deep": choose.choice((1, 1, 2, 3)),
            "training": choose.random() < 0.8,
            "set_to_none": choose.random() < 0.7,
            "read_every": choose.choice((1, 1, 1, 2, 5)),
            "clip": choose.random() < 0.3,
            "average": choose.random() < 0.4,
            "noise": choose.choice((None, None, "default", "own")),
            "scheduled": choose.random() < 0.5,
            "table": choose.random() < 0.25,
            "looked_at": choose.choice((0, 0, 1, 2, 4)),
            "chain": choose.choice((0, 0, 0, 0, 150, 250)),
        }

    def data(self, number, plan):
        """What a net takes, new in each step, from the host's memory."""
        batch, side = plan["batch"], plan["side"]
        if number == 0:
            x = torch.randn(batch, 12, generator=self.host)
        elif number == 1:
            x = torch.randn(batch, 3, side, side, generator=self.host)
        else:
            x = torch.randint(20, (batch, side), generator=self.host)
        return x.to(device), torch.randint(5, (batch,), generator=self.host).to(device)

    def do(self, plan, interrupted=False):
        """Do a step as planned."""
        losses = []
        for number in plan["nets"]:
            net, optimizer = self.nets[number], self.optimizers[number]
            net.train(plan["training"])
            x, y = self.data(number, plan)
            if plan["noise"] and x.is_floating_point():
                generator = self.generator if plan["noise"] == "own" else None
                x = x + 0.1 * torch.randn(x.shape, generator=generator, device=device)
            loss = F.cross_entropy(net(x, plan["deep"]), y)
            if interrupted:
                raise Interrupted
            if plan["scheduled"]:
                loss = loss * (1.0 + 0.1 / (1 + self.step))
                optimizer.param_groups[0]["lr"] *= 0.99
            optimizer.zero_grad(set_to_none=plan["set_to_none"])
            loss.backward()
            if plan["clip"]:
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.detach())
        if plan["average"]:
            with torch.no_grad():
                for kept, new in zip(self.average, self.nets[0].parameters(), strict=True):
                    kept.lerp_(new, 0.1)
        if plan["table"]:
            self.table[self.step % 32].copy_(torch.rand(16, generator=self.generator, device=device))
            self.table.mul_(0.9).add_(0.01 * (self.step % 7))
        x = self.table[:4]
        for _ in range(plan["chain"]):  # the same again and again: what one makes, the next takes and frees
            x = x * 1.001 + self.table[4:8]
        losses.append(1e-3 * x.abs().mean())
        if self.step % plan["read_every"] == 0:
            self.say("loss", torch.stack(losses).sum().item())
            # Computed some time before, and some of it written to since.
            values = losses[0], self.nets[0].norm.running_mean, self.table[3], self.nets[plan["nets"][-1]].last.bias
            for value in values[: plan["looked_at"]]:
                self.say("seen", value.detach().cpu())

    def perturb(self):
        """Do one thing that is not part of steps."""
        chosen = self.random.choice(PERTURBATIONS)
        self.counts["perturbation"] += 1
        chosen(self)

    def run(self, steps):
        """Do steps: stretches of the same, and others in between."""
        choose = self.random
        while self.step < steps:
            plan, count = self.plan(), choose.randint(5, 20)
            uneven = choose.random() < 0.25  # a stretch in which something else happens now and then
            for _ in range(min(count, steps - self.step)):
                if self.step % EPISODE == 0:
                    self.begin()
                if uneven and choose.random() < 0.15:
                    self.perturb()
                self.do(plan)
                self.step += 1
                self.counts["steady"] += 1
            for _ in range(choose.randint(1, 4)):
                if self.step < steps:
                    if self.step % EPISODE == 0:
                        self.begin()
                    self.perturb()
                    if choose.random() < 0.5:
                        self.do(self.plan())
                    self.step += 1
                    self.counts["perturbed"] += 1


def keep_new(program):
    source = program.random.choice(
        (
            lambda: program.table[program.random.randrange(32)].clone(),
            lambda: program.nets[0].last.weight.detach() * program.random.uniform(0.5, 1.5),
            lambda: torch.full((program.random.randint(1, 40),), program.random.random(), device=device),
            lambda: torch.arange(program.random.randint(1, 40), device=device).float().view(-1, 1).expand(-1, 3),
        )
    )
    program.kept.append(source())


def keep_view(program):
    whole = torch.randn(program.random.randint(4, 9), 8, generator=program.host).to(device)
    program.kept += [whole, program.random.choice((whole.t(), whole[1:3], whole[:, ::2], whole.flatten()[3:7]))]


def delete(program):
    while len(program.kept) > program.random.randint(0, KEPT):
        program.kept.pop(program.random.randrange(len(program.kept)))


def write(program):
    for each in program.random.sample(program.kept, min(3, len(program.kept))):
        if 0 not in each.stride():
            each.mul_(program.random.uniform(0.8, 1.1)).add_(0.25)
            each.clamp_(-3, 3)


def write_by_view(program):
    row, column = program.random.randrange(32), program.random.randrange(16)
    program.table.t()[column] = 0.5
    program.table[row, :column] = program.random.random()
    program.table.view(-1)[row : row + 40 : 3].neg_()


def read_kept(program):
    for each in program.random.sample(program.kept, min(3, len(program.kept))):
        program.say("kept", each.cpu())


def read_table(program):
    program.say("table", program.table.cpu())


def read_parameters(program):
    net = program.random.choice(program.nets)
    name, value = program.random.choice(sorted(net.state_dict().items()))
    program.say(name, value.detach().cpu())


def read_numbers(program):
    program.say("numbers", program.table.sum(1).tolist())
    program.say("any", bool((program.table > 0.4).any()))


def read_gradients(program):
    found = [each.grad for each in program.random.choice(program.nets).parameters() if each.grad is not None]
    if found:
        program.say("gradients", torch.stack([each.norm() for each in found]).cpu())


def select(program):
    """Shapes that depend on values: on those of the host, which are alike everywhere."""
    values = torch.randn(program.random.randint(8, 30), generator=program.host).to(device)
    places = (values > program.random.uniform(-0.5, 0.5)).nonzero().flatten()
    program.say("places", places.cpu())
    program.kept.append(values[places] * 2)
    program.say("distinct", values.mul(3).round().unique().cpu())
    if (values.sum() > 0).item():
        program.table[places % 32] = 0.125
    else:
        program.table[:, 0] = values[values < 0][:1]


def upload(program):
    size = program.random.choice((16, 1000, 30_000, 300_000))
    large = torch.randn(size, generator=program.host).to(device)
    program.say("upload", large.view(-1, 8).square().mean(0).cpu())
    if program.random.random() < 0.3:
        program.kept.append(large[:64])


def draw(program):
    shape = program.random.choice(((5,), (3, 4), (2, 3, 2)))
    program.say("uniform", torch.rand(shape, device=device).cpu())
    program.say("normal", torch.randn(shape, generator=program.generator, device=device).cpu())
    program.say("order", torch.randperm(program.random.randint(3, 9), device=device, generator=program.generator).cpu())
    kept = torch.empty(shape, device=device).bernoulli_(0.4, generator=program.generator)
    program.kept.append(F.dropout(kept + 1, 0.3))


def seed(program):
    number = program.random.randrange(1 << 30)
    torch.manual_seed(number) if program.random.random() < 0.5 else program.generator.manual_seed(number)


def interrupt(program):
    try:
        program.do(program.plan(), interrupted=True)
    except Interrupted:
        program.counts["interrupted"] += 1


def fail(program):
    try:
        x = program.table * 2
        x[:3] @ program.nets[0].last.weight.new_ones(7, 2)
    except RuntimeError as exc:
        program.kept.append(x[0])
        program.counts["failed"] += "cannot be multiplied" in str(exc)


def collect(program):
    cycle = [program.table.clone()]
    cycle.append(cycle)
    del cycle
    if program.random.random() < 0.7:
        gc.collect()


def change_rate(program):
    for optimizer in program.optimizers:
        optimizer.param_groups[0]["lr"] *= program.random.choice((0.5, 0.9))


def change_optimizer(program):
    number = program.random.randrange(3)
    program.optimizers[number] = program.optimizer(program.nets[number])


def evaluate(program):
    plan = program.plan() | {"batch": program.random.randint(2, 9)}
    for number in plan["nets"]:
        net = program.nets[number].eval()
        with torch.no_grad():
            program.say("scores", net(program.data(number, plan)[0], plan["deep"]).cpu())


def freeze(program):
    layer = program.random.choice((program.nets[0].second, program.nets[1].second, program.nets[2].mixed))
    for each in layer.parameters():
        each.requires_grad_(not each.requires_grad)


def order_otherwise(program):
    x, y = (torch.randn(4, 4, generator=program.host).to(device) for _ in range(2))
    operations = [lambda x: x @ y, lambda x: x.relu(), lambda x: x + y.t(), lambda x: x * 0.5, lambda x: x.roll(1, 0)]
    program.random.shuffle(operations)
    for operation in operations[: program.random.randint(2, 5)]:
        x = operation(x)
    program.kept.append(x)


PERTURBATIONS = (
    keep_new, keep_view, delete, delete, write, write_by_view, read_kept, read_table, read_parameters, read_numbers,
    read_gradients, select, upload, draw, seed, interrupt, fail, collect, change_rate, change_optimizer, evaluate,
    freeze, order_otherwise,
)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--exact", action="store_true", help="print digests of values, too")
    options = parser.parse_args()
    program = Program(options.seed, options.exact)
    program.run(options.steps)
    print(*(f"{name} {count}" for name, count in sorted(program.counts.items())))
