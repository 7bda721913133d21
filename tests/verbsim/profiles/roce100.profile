# verbsim profile: 100 Gbit/s Ethernet, RoCE v2, a ConnectX-5, about 2019.

device = verbsim0
link-layer = ethernet

# Measured: 97 Gbit/s of ib_send_bw with 64 KiB messages over ConnectX-4
# 100GbE and an SN2700 (Mellanox community, "ib_send_bw", 2016).  The frames
# would allow 98.0: 4096 of 4096 + 82 bytes (preamble and gap 20, Ethernet 18,
# IPv4 20, UDP 8, BTH 12, ICRC 4).
bandwidth = 97Gbit/s

# ConnectX-5 EN product brief: "sub-600ns" for the adapters; 0.3 us are added
# for one switch (an SN2700's data sheet value).
latency = 0.9us

# Measured: "more than 20 seconds" for 256 GB of 4 KiB pages over verbs
# (libfabric issue 4738, 2019) = 76 us per MiB.  Another: 49.2 s for 500 GB
# that were touched before (Mooncake pull request 855, 2025) = about 100 us.
register-mib-4k = 76us

# Derived: a 4-byte registration, transfer and deregistration for each
# operation took 21.3 us, 0.5 us with the registration cached (libfabric pull
# request 12836).  Of the 20.8 us, 60 % are taken for registering.
register-call = 12.5us
deregister-call = 8.3us

# An assumption, no figure was found: the maintainers only say that huge pages
# help (libfabric issue 4738).  512 times fewer pages, but their physical
# addresses are still handed to the adapter: a twenty-fifth.
register-mib-2m = 3us

# 1.07 s: 2 x RoCE's packet life time (4.096 us << 16, Linux 6.2 and later)
# + the adapter's delay of the same size.
ack-timeout = 18
