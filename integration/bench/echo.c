// echo: sends every UDP packet back, in batches. It is the floor: what the
// kernel's part of an answer costs. It listens on 127.0.0.1 only.
//
// build: cc -O2 -o echo echo.c ; run: echo PORT
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BATCH 32

int main(int argc, char **argv) {
  if (argc != 2) { fprintf(stderr, "usage: echo PORT\n"); return 2; }
  int fd = socket(AF_INET, SOCK_DGRAM, 0), size = 4 << 20;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(fd, (void *)&a, sizeof a)) { perror("bind"); return 1; }
  static char buf[BATCH][4096];
  static struct sockaddr_in from[BATCH];
  struct mmsghdr m[BATCH];
  struct iovec v[BATCH];
  memset(m, 0, sizeof m);
  for (int i = 0; i < BATCH; i++) {
    v[i].iov_base = buf[i];
    m[i].msg_hdr = (struct msghdr){.msg_name = &from[i], .msg_iov = &v[i], .msg_iovlen = 1};
  }
  for (;;) {
    for (int i = 0; i < BATCH; i++) { v[i].iov_len = sizeof buf[i]; m[i].msg_hdr.msg_namelen = sizeof from[i]; }
    int n = recvmmsg(fd, m, BATCH, MSG_WAITFORONE, NULL);
    if (n <= 0) continue;
    for (int i = 0; i < n; i++) v[i].iov_len = m[i].msg_len;
    for (int k = 0; k < n;) {
      int s = sendmmsg(fd, m + k, n - k, 0);
      k += s > 0 ? s : 1;
    }
  }
}
