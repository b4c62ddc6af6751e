"""Caffe's files: prototxt and caffemodel, read and written without Caffe or protobuf; pure functions, no I/O.

`schema` says which messages there are, `wire` and `text` read and write them as plain values, `message` gives them
protobuf's surface, `upgrade`, `filter` and `splits` do to a net what Caffe does before it builds one; `caffemodel`,
`hdf5_weights` and `solver_state` are what training leaves behind (in HDF5 a file, given by the caller).
"""
