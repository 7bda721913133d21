# verbsim profile: no delays, as fast as this machine copies.
#
# Limits and CM time-outs are the defaults of shape.c: about what
# ibv_devinfo -v shows of a ConnectX-5, and what Linux's CM does.

device = verbsim0
link-layer = ethernet
bandwidth = unlimited
latency = 0

# 0.54 s: 2 x RoCE's packet life time (4.096 us << 16, Linux 6.2 and later)
# for an adapter without a delay of its own.
ack-timeout = 17
