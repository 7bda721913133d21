#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Process 1 of the lab VM (see scripts/lab). It runs on static busybox from the
# initramfs, builds the root file system and the RDMA device, runs /job.sh
# chrooted into the host's own root, and reports over virtio-serial ports:
#
#   rmig.ctl   out: "ready", then "exit STATUS"; or "fail MESSAGE"
#   rmig.out   the command's standard output, then /token
#   rmig.err   its standard error, then /token
#
# The token marks the end of a stream in the stream itself: closing a port does
# not tell the host whether everything written before has arrived.

export PATH=/bin
new=/new
addr4=192.0.2.1
addr6=fd72:6d69:6700::1

port() {
    for p in /sys/class/virtio-ports/*; do
        if [ "$(cat "$p/name" 2>/dev/null)" = "$1" ]; then
            echo "/dev/${p##*/}"
            return 0
        fi
    done
    return 1
}

halt() {
    # The host ends the VM when it has read the last message.
    while :; do
        sleep 60
    done
}

say() {
    echo "$*" >&3
}

fail() {
    say "fail $*"
    halt
}

# Repeat a test for up to ten seconds.
await() {
    n=0
    until "$@"; do
        n=$((n + 1))
        [ $n -lt 1000 ] || return 1
        usleep 10000
    done
}

mount_root() {
    opts=trans=virtio,version=9p2000.L,msize=512000
    mkdir -p /ro /rw $new
    mount -t 9p -o ro,cache=loose,$opts root /ro ||
        fail "cannot mount the host's root file system"
    mount -t tmpfs -o size=90% tmpfs /rw
    mkdir /rw/upper /rw/work
    mount -t overlay \
        -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work overlay $new ||
        fail "cannot mount the overlay over the host's root file system"
    mount -t proc proc $new/proc
    mount -t sysfs sysfs $new/sys
    mount -o bind /dev $new/dev
    mkdir -p $new/dev/pts $new/dev/shm
    mount -t devpts devpts $new/dev/pts
    mount -t tmpfs -o mode=1777,size=90% tmpfs $new/dev/shm
    mount -t tmpfs -o mode=755 tmpfs $new/run
    mkdir -p $new/run/lock $new/run/lab/out
    ln -sf /proc/self/fd /dev/fd
    ln -sf fd/0 /dev/stdin
    ln -sf fd/1 /dev/stdout
    ln -sf fd/2 /dev/stderr
    mount -t 9p -o cache=mmap,$opts out $new/run/lab/out ||
        fail "cannot mount the results directory"
}

# Both addresses must have a RoCE GID before anybody binds to them.
have_gids() {
    cat /sys/class/infiniband/rxe0/ports/1/gids/* 2>/dev/null >/gids
    grep -q ffff:c000:0201 /gids && grep -q ^fd72:6d69:6700 /gids &&
        grep -q ACTIVE /sys/class/infiniband/rxe0/ports/1/state
}

setup_network() {
    hostname lab
    printf '%s lab lab4\n%s lab lab6\n' $addr4 $addr6 >>$new/etc/hosts
    ip link set lo up
    await [ -e /sys/class/net/eth0 ] || fail "no network interface appeared"
    # Nobody else is on this wire: duplicate detection would only cost time.
    echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set eth0 mtu 9000 up
    ip addr add $addr4/24 dev eth0
    ip -6 addr add $addr6/64 dev eth0
    chroot $new rdma link add rxe0 type rxe netdev eth0 ||
        fail "cannot create the Soft-RoCE device rxe0"
    await have_gids || fail "rxe0 got no GIDs for its addresses"
}

# Processes that outlive the command would keep its output open for ever.
# Kernel threads have an empty command line and are left alone.
kill_stragglers() {
    for p in /proc/[0-9]*; do
        pid=${p#/proc/}
        case " 1 $pid_out $pid_err " in
        *" $pid "*) continue ;;
        esac
        [ -n "$(head -c 1 "$p/cmdline" 2>/dev/null)" ] && kill -9 "$pid"
    done 2>/dev/null
}

run_job() {
    mkfifo /out /err
    cat /out >"$1" &
    pid_out=$!
    cat /err >"$2" &
    pid_err=$!
    setsid chroot $new /bin/sh /run/lab/job.sh \
        </dev/null >/out 2>/err 3>&- &
    wait $!
    status=$?
    kill_stragglers
    wait $pid_out $pid_err
    cat /token >"$1"
    cat /token >"$2"
}

run_shell() {
    echo "lab: rxe0 on $addr4 and $addr6 (host names: lab, lab4, lab6);" \
        "results go to \$RMIG_LAB_OUT" >/dev/hvc0
    setsid -c chroot $new /bin/sh /run/lab/job.sh \
        </dev/hvc0 >/dev/hvc0 2>&1 3>&-
    status=$?
    kill_stragglers
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module" || echo "lab: insmod $module failed"
done </modules/order
await port rmig.ctl >/dev/null || {
    echo "lab: no control port"
    poweroff -f
}
exec 3>"$(port rmig.ctl)"
mount_root
setup_network
cp /job.sh $new/run/lab/job.sh
export RMIG_LAB=1 RMIG_LAB_OUT=/run/lab/out RMIG_LAB_NAME=lab
export RMIG_LAB_ADDR4=$addr4 RMIG_LAB_ADDR6=$addr6
say ready
if [ -e /dev/hvc0 ]; then
    run_shell
else
    await port rmig.out >/dev/null || fail "no port for standard output"
    await port rmig.err >/dev/null || fail "no port for standard error"
    run_job "$(port rmig.out)" "$(port rmig.err)"
fi
umount $new/run/lab/out || sync
say "exit $status"
halt
