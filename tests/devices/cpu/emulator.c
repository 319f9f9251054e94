/* Maps a file to where the pointers inside it lead, and runs the kernels that are linked in.

   emulator FILE ADDRESS BYTES */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

void run(void);

int main(int count, char **words) {
    if (count != 4) return 2;
    int file = open(words[1], O_RDWR);
    void *at = (void *)strtoull(words[2], NULL, 0);
    if (mmap(at, strtoull(words[3], NULL, 0), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) != at) {
        perror(words[1]);
        return 1;
    }
    run();
    return 0;
}
