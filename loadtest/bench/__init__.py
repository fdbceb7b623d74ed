"""`make bench`: what the mesh costs above the kernels it is made of.

Every figure stands beside a floor measured in the same run, interleaved, because
a shared machine drifts by more than the differences that matter.
"""
