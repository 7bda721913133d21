# verbsim profile of the fault sweep: no delays, and the longest time-out in use.
device = verbsim0
link-layer = ethernet
bandwidth = unlimited
latency = 0

# 2.2 s: InfiniBand under OpenSM (2 x its packet life time, 4.096 us << 18),
# and RoCE before Linux 6.2. A dead link shows after the retries, 7 of these.
ack-timeout = 19
