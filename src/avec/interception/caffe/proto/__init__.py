"""caffe.proto: the messages of Caffe's files, see caffe_pb2."""
