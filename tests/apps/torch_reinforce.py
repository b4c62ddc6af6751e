"""REINFORCE on a corridor: a policy that is asked one step at a time, so that every step reads a value."""

import torch
from torch import nn
from torch.distributions import Categorical

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(5)
LENGTH = 6
policy = nn.Sequential(nn.Linear(LENGTH, 16), nn.Tanh(), nn.Linear(16, 2)).to(device)
optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
returns_seen = []
for episode in range(12):
    place, log_probabilities, rewards = 1, [], []
    for _ in range(12):
        state = torch.zeros(LENGTH, device=device)
        state[place] = 1
        distribution = Categorical(logits=policy(state).cpu())
        action = distribution.sample()
        log_probabilities.append(distribution.log_prob(action))
        place = max(0, min(LENGTH - 1, place + (1 if action.item() else -1)))
        rewards.append(1.0 if place == LENGTH - 1 else -0.1)
        if place == LENGTH - 1:
            break
    returns, total = [], 0.0
    for reward in reversed(rewards):
        total = reward + 0.95 * total
        returns.insert(0, total)
    loss = -(torch.stack(log_probabilities).to(device) * torch.tensor(returns, device=device)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    returns_seen.append(sum(rewards))
    print(f"episode {episode} steps {len(rewards)} return {sum(rewards):.2f} loss {loss.item():.4f}")
