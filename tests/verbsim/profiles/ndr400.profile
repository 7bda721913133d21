# verbsim profile: 400 Gbit/s InfiniBand (4x NDR), a ConnectX-7, about 2023.
#
# Few machines copy memory at this rate: without --no-copy the copying sets
# the pace, not this profile.

device = verbsim0
link-layer = infiniband

# 4 lanes x 100 Gbit/s of data; of 4096 + 26 bytes of a packet (LRH 8, BTH 12,
# ICRC 4, VCRC 2) 4096 are payload: 397 Gbit/s.  An upper bound: of EDR's 100
# ib_write_bw shows 96.6 (NVIDIA developer forum, topic 273376), where the same
# reckoning gives 99.4.
bandwidth = 397Gbit/s

# An assumption, no measurement was found: ConnectX-5's "sub-600ns" (product
# brief), and 0.2 us for one switch with error correction.
latency = 0.8us

# As roce100: pinning pages is the processor's work, and no figure that is
# certain to be of this adapter was found.
register-call = 12.5us
register-mib-4k = 76us
register-mib-2m = 3us
deregister-call = 8.3us

# 2.2 s: 2 x OpenSM's packet life time (4.096 us << 18).
ack-timeout = 19
