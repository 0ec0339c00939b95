"""A forecast's steps as operations on tensors, for a GPU; on the CPU the loops beside this folder
are faster. Both give the same: a test compares them, on the CPU.

Shapes do not depend on what is seen: what is not there is NaN, infinite or masked. So hardly
anything waits for the device. Points are (3, N), for neighbouring threads to read neighbouring
numbers.
"""
