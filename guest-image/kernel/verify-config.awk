# Prints the settings of the fragment (first file) that did not survive in the kernel's .config (second file).
# The rules for "# either:" and "# optional:" are at the head of tuned.config.
function close_group() {
  if (group == "either" && !survived) print "one of: " names
  group = ""; names = ""; survived = 0
}
function key(line) { sub(/^# /, "", line); sub(/[ =].*/, "", line); return line }
NR == FNR { fragment[++count] = $0; next }
/^CONFIG_/ || /^# CONFIG_.* is not set$/ { have[$0] = 1; if ($0 ~ /^CONFIG_/) set[key($0)] = 1 }
END {
  for (i = 1; i <= count; i++) {
    line = fragment[i]
    if (line ~ /^# CONFIG_.* is not set$/) { close_group(); if (key(line) in set) print line; continue }
    if (line ~ /^CONFIG_/) {
      if (group == "either") { names = names " " line; if (line in have) survived = 1 }
      else if (group == "" && !(line in have)) print line
      continue
    }
    close_group()
    if (line == "# either:") group = "either"
    if (line == "# optional:") group = "optional"
  }
  close_group()
}
