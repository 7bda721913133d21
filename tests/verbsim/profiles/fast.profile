# verbsim profile: no delays, as fast as this machine copies.
#
# Limits: what verbsim has where a profile is silent (shape.c), which is about
# what ibv_devinfo -v shows of a ConnectX-5.

device = verbsim0
link-layer = ethernet
bandwidth = unlimited
latency = 0
