"""The workloads' networks in plain PyTorch, with random weights, for where the libraries of the field are not there."""
