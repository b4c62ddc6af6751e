"""Caffe's own command line under AVEC: `python -m avec.caffe time|test|train|device_query|upgrade`.

The commands are pycaffe programs that intercept themselves; not here: anything that a program could not do as well.
Source: caffe/tools/caffe.cpp and the upgrade tools beside it.
"""
