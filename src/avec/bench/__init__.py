"""`avec bench`: standard workloads, natively and under AVEC, over links of a stated rate and round trip.

What is measured stands in `program`, which is an ordinary PyTorch program and knows nothing of AVEC.
"""
