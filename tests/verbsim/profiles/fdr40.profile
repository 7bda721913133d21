# verbsim profile: 4x FDR10 InfiniBand, a ConnectX-3 on PCIe 3.0, about 2013.
#
# The class of link that the figures in QEMU's own documentation were taken on
# ("40gbps infiniband link": 26 Gbit/s with rdma-pin-all, 9.5 Gbit/s without).
# It does not say whether that was QDR or FDR10; this is FDR10, so that the
# link is not what ends at 26 Gbit/s.

device = verbsim0
link-layer = infiniband

# 4 lanes x 10.3125 Gbit/s x 64/66 = 40 Gbit/s; of 4096 + 26 bytes of a packet
# (LRH 8, BTH 12, ICRC 4, VCRC 2) 4096 are payload: 39.7 Gbit/s.  (QDR: 4 x 10
# x 8/10 = 32 Gbit/s.)
bandwidth = 39.7Gbit/s

# Mellanox at ConnectX-3's announcement (The Register, 6 June 2011): less than
# 1 us; ConnectX-2 1.3 us.
latency = 1us

# Derived from QEMU's two figures: 1 MiB took 323 us with everything pinned
# before and 883 us without.  The 560 us between them are one registration on
# each side and a round trip of control messages; 2 x 250 us + 2 x 20 us leave
# 20 us for the messages.
register-call = 20us
register-mib-4k = 250us

# An assumption: pages are what costs, and there are 512 times fewer, but
# Linux of that time walked huge pages in 4 KiB steps.
register-mib-2m = 25us

# An assumption: half of a registration without pages.
deregister-call = 10us

# 2.2 s: 2 x OpenSM's packet life time (4.096 us << 18).
ack-timeout = 19

max-inline = 912
max-sge = 32
max-qp-wr = 16351
max-rd-atomic = 16
