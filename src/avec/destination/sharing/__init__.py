"""How sessions share one accelerator: turns by weight and priority, memory by what was promised.

`fairness` and `room` are arithmetic, `arbiter` is the server's side of a turn, `turns` the worker's, and `board` the
numbers that both see.
"""
