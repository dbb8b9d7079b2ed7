#!/bin/busybox sh
# PID 1 of the floor of an exec, and the shell on the guest's image that it becomes: runs a container with the image's crun as the
# agent does, then `crun exec` in it, COUNT times, each between two words on the console. Arguments: exec COUNT, and for a root file
# system on a share of the host, in the place of one in the guest's memory, the tag of the share.
set -e

# Called by its own name it still is on the initramfs.
if [ "$1" != on-image ]; then
  /bin/busybox mkdir -p /proc /sys /dev /image
  export PATH=/bin
  /bin/busybox --install -s /bin
  mount -t devtmpfs dev /dev
  if [ -e /modules/order ]; then
    while read -r module; do insmod "/modules/$module"; done </modules/order
  fi
  until [ -e /dev/vda ]; do usleep 10000; done
  mount -t erofs -o ro /dev/vda /image
  mount -t proc proc /image/proc
  mount -t sysfs sysfs /image/sys
  mount -t cgroup2 cgroup2 /image/sys/fs/cgroup
  echo '+cpu +memory +pids +io' >/image/sys/fs/cgroup/cgroup.subtree_control
  mount -t tmpfs tmpfs /image/run
  mount -t tmpfs tmpfs /image/tmp
  mount --move /dev /image/dev
  mkdir -p /image/run/bundle/rootfs
  if [ -n "$3" ]; then
    mount -t virtiofs "$3" /image/run/bundle/rootfs
  else
    for name in bin proc sys dev tmp; do mkdir "/image/run/bundle/rootfs/$name"; done
    for name in true sleep; do cp /bin/busybox "/image/run/bundle/rootfs/bin/$name"; done
  fi
  cp /bin/busybox /exec.sh /image/run
  cp /config.json /image/run/bundle
  exec switch_root /image /run/busybox sh /run/exec.sh on-image "$2" "$3"
fi

# What the agent gives it.
export PATH=/usr/bin:/bin _LIBCONTAINER_CLONED_BINARY=1
crun() { /usr/bin/crun --root /run/crun --cgroup-manager=cgroupfs "$@"; }
crun run --detach --bundle /run/bundle floor </dev/null
count=$2
while [ "$count" -gt 0 ]; do
  # As far apart as the execs that this is the floor of: what the guest knows of a share's files it knows for a second.
  /run/busybox usleep 300000
  echo 'exec begins'
  crun exec floor /bin/true </dev/null
  echo 'exec ends'
  count=$((count - 1))
done
/run/busybox reboot -f
