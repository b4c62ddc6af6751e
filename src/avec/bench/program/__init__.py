"""The standard workloads as a PyTorch program, which runs natively or under AVEC and is the same in both cases.

    python -m avec.bench.program --work W2,W6

Nothing here imports anything of AVEC's.
"""
