# Works with files in the directories that its stdin names, one a line, and says a word as each step is done:
# a file of 64 MiB written and synced, one read that nobody here has read, the attributes of two thousand asked for.
while read -r directory; do
  echo begin
  dd if=/dev/zero of="$directory/written" bs=1M count=64 conv=fsync 2>/dev/null
  echo write
  dd if="$directory/large" of=/dev/null bs=1M 2>/dev/null
  echo read
  ls -ln "$directory/many" >/dev/null
  echo stat
done
