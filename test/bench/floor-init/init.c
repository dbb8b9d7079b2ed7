/*
 * The other end of the benchmarks: one static program without a C library, for x86-64 Linux.
 *
 *   init hello              PID 1 of the floor: says hello and resets the machine
 *   init vsock PORT BYTES   PID 1 of the raw vsock floor: connects to the host and serves (below), then resets
 *   init pipe BYTES         in a container: serves stdin and stdout
 *
 * To serve is to read commands of one byte: `s` sends BYTES bytes, `r` receives as many and answers `k`; any other, or the
 * end of the input, ends it. The same program on both ways, so that the difference is the way's.
 *
 * PID 1 gets its arguments from the kernel: words of its command line that it does not know.
 */

enum { SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_nanosleep = 35, SYS_socket = 41, SYS_connect = 42 };
enum { SYS_exit = 60, SYS_reboot = 169, SYS_finit_module = 313 };

/* linux/vm_sockets.h */
enum { AF_VSOCK = 40, SOCK_STREAM = 1, VMADDR_CID_HOST = 2 };
struct sockaddr_vm {
  unsigned short family, reserved;
  unsigned int port, cid;
  unsigned char flags, zero[3];
};

/* 32 KiB, as the agent writes: some guest kernels split larger packets in a way that vsock backends drop. */
static char buffer[32 * 1024];

static long call4(long number, long a, long b, long c, long d) {
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                   : "rcx", "r11", "memory");
  return result;
}

static long call3(long number, long a, long b, long c) { return call4(number, a, b, c, 0); }

static int equal(const char *left, const char *right) {
  while (*left != 0 && *left == *right) left++, right++;
  return *left == *right;
}

static unsigned long to_number(const char *text) {
  unsigned long number = 0;
  for (; *text >= '0' && *text <= '9'; text++) number = number * 10 + (unsigned long)(*text - '0');
  return number;
}

static void say(const char *text) {
  unsigned long length = 0;
  while (text[length] != 0) length++;
  call3(SYS_write, 1, (long)text, (long)length);
}

/* Moves the bytes with reads or writes of up to the buffer's size. */
static int transfer(long number, int fd, unsigned long bytes) {
  while (bytes > 0) {
    long done = call3(number, fd, (long)buffer, (long)(bytes < sizeof buffer ? bytes : sizeof buffer));
    if (done <= 0) return 0;
    bytes -= (unsigned long)done;
  }
  return 1;
}

static int serve(int in, int out, unsigned long bytes) {
  char command;
  while (call3(SYS_read, in, (long)&command, 1) == 1) {
    if (command == 's') {
      if (!transfer(SYS_write, out, bytes)) return 0;
    } else if (command == 'r') {
      if (!transfer(SYS_read, in, bytes) || call3(SYS_write, out, (long)"k", 1) != 1) return 0;
    } else {
      break;
    }
  }
  return 1;
}

/* As the agent does: the initrd of a kernel with modules lists their files in load order. */
static void load_modules(void) {
  static char list[4096], path[256] = "/modules/";
  long fd = call3(SYS_open, (long)"/modules/order", 0, 0);
  if (fd < 0) return;
  long size = call3(SYS_read, fd, (long)list, sizeof list - 1);
  call3(SYS_close, fd, 0, 0);
  for (char *from = list, *end = list + size; from < end; from++) {
    char *to = path + sizeof "/modules/" - 1;
    while (from < end && *from != '\n') *to++ = *from++;
    *to = 0;
    long module = call3(SYS_open, (long)path, 0, 0);
    if (call3(SYS_finit_module, module, (long)"", 0) < 0) say("bench: a module is not loaded\n");
    call3(SYS_close, module, 0, 0);
  }
}

static int connect_to_host(unsigned int port) {
  struct sockaddr_vm host = {.family = AF_VSOCK, .port = port, .cid = VMADDR_CID_HOST};
  for (int tries = 0; tries < 200; tries++) {
    long fd = call3(SYS_socket, AF_VSOCK, SOCK_STREAM, 0);
    if (fd >= 0 && call3(SYS_connect, fd, (long)&host, sizeof host) == 0) return (int)fd;
    if (fd >= 0) call3(SYS_close, fd, 0, 0);
    /* The device may not be probed yet. */
    long pause[2] = {0, 50 * 1000 * 1000};
    call3(SYS_nanosleep, (long)pause, 0, 0);
  }
  say("bench: no connection to the host\n");
  return -1;
}

static void reset(void) {
  call4(SYS_reboot, (long)0xfee1dead, 672274793, 0x01234567, 0);
}

__attribute__((used)) static void start(long *stack) {
  long count = stack[0];
  char **arguments = (char **)(stack + 1);
  int status = 2;
  if (count == 2 && equal(arguments[1], "hello")) {
    say("hello\n");
    reset();
  } else if (count == 4 && equal(arguments[1], "vsock")) {
    load_modules();
    int fd = connect_to_host((unsigned int)to_number(arguments[2]));
    if (fd >= 0) serve(fd, fd, to_number(arguments[3]));
    reset();
  } else if (count == 3 && equal(arguments[1], "pipe")) {
    status = serve(0, 1, to_number(arguments[2])) ? 0 : 1;
  } else {
    say("bench: unknown arguments\n");
  }
  call3(SYS_exit, status, 0, 0);
}

__asm__(".globl _start\n_start:\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call start\n");
