/*
 * A program that uses the library in the way it was compiled for, and asserts that the library
 * left malloc to whom it belongs. Arguments: a part of the file name malloc must come from, and
 * with -DWITH_DLOPEN the library to load.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef WITH_DLOPEN
static const char *(*err_text)(int);
#else
#include <mooring/error.h>
#endif

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void use_library(void)
{
#ifdef WITH_DLOPEN
    const char *text = err_text(0);
#else
    const char *text = moor_err_text(MOOR_OK);
#endif
    CHECK(text != NULL && text[0] != '\0');
}

/* A thread that used the library ends after dlclose: what its end runs must still be mapped. */
static void *use_and_wait(void *barrier)
{
    use_library();
    pthread_barrier_wait(barrier);
    pthread_barrier_wait(barrier);
    return NULL;
}

static void check_malloc(const char *owner)
{
    Dl_info info;
    CHECK(dladdr((void *)malloc, &info) != 0);
    if (!strstr(info.dli_fname, owner)) {
        fprintf(stderr, "malloc comes from %s, not from %s\n", info.dli_fname, owner);
        exit(1);
    }
    Dl_info freeing;
    CHECK(dladdr((void *)free, &freeing) != 0 && freeing.dli_fbase == info.dli_fbase);

    /* Allocated inside libc, freed through the name the program sees. */
    char *path = realpath("/", NULL);
    CHECK(path && strcmp(path, "/") == 0);
    CHECK(malloc_usable_size(path) >= 2);
    free(path);
}

int main(int argc, char **argv)
{
    CHECK(argc >= 2);
    check_malloc(argv[1]);
#ifdef WITH_DLOPEN
    CHECK(argc == 3);
    void *library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    *(void **)&err_text = dlsym(library, "moor_err_text");
    CHECK(err_text);
    CHECK(!dlsym(RTLD_DEFAULT, "mrj_mallocx") && !dlsym(library, "mrj_mallocx"));
#endif
    pthread_t thread;
    pthread_barrier_t barrier;
    CHECK(pthread_barrier_init(&barrier, NULL, 2) == 0);
    CHECK(pthread_create(&thread, NULL, use_and_wait, &barrier) == 0);
    pthread_barrier_wait(&barrier);
    use_library();
#ifdef WITH_DLOPEN
    CHECK(dlclose(library) == 0);
#endif
    pthread_barrier_wait(&barrier);
    CHECK(pthread_join(thread, NULL) == 0);
    check_malloc(argv[1]);
    return 0;
}
