/* Makes the system calls of its arguments, "[i]NUMBER[,ARGUMENT...]", each in a process of its own, and says what came
 * of each: "ok", "errno N" or "signal N". With an i it enters the kernel as programs of 32-bit x86 do. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static long call(int i386, unsigned long nr, unsigned long *a)
{
#ifdef __x86_64__
    if (i386) {
        long ret;
        __asm__ volatile("int $0x80" : "=a"(ret)
                         : "a"(nr), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
                         : "memory", "r8", "r9", "r10", "r11");
        return ret;
    }
#endif
    long ret = syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    return ret < 0 ? -errno : ret;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char *at = argv[i];
        int i386 = *at == 'i';
        unsigned long nr = strtoul(at + i386, &at, 0), a[6] = {0};
        for (int n = 0; n < 6 && *at == ','; n++)
            a[n] = strtoul(at + 1, &at, 0);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            long ret = call(i386, nr, a);
            /* Also what a clone returns to ends here. */
            _exit(ret < 0 && ret > -256 ? -ret : 0);
        }
        int status;
        if (child < 0 || waitpid(child, &status, __WALL) != child)
            return 1;
        if (WIFSIGNALED(status))
            printf("signal %d\n", WTERMSIG(status));
        else if (WEXITSTATUS(status))
            printf("errno %d\n", WEXITSTATUS(status));
        else
            printf("ok\n");
    }
    return 0;
}
