/*
 * A program that speaks TLS through OpenSSL itself and fetches over TLS through the library, in turn
 * and at once on two threads. Arguments: port, a file with the root, a name in the server's
 * certificate, one that is not. The server is at 127.0.0.1 and closes after each answer.
 */
#include <arpa/inet.h>
#include <mooring/mooring.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHECK(x)                                                                                   \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

enum { ROUNDS = 8 };

static const char *port, *root;
static moor_pool *pool;

static int connected_socket(void)
{
    const struct sockaddr_in at = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)atoi(port)),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0 && connect(fd, (const struct sockaddr *)&at, sizeof at) == 0);
    return fd;
}

/* By OpenSSL. Returns false if it refused the server. */
static bool asked_by_hand(const char *host)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    CHECK(ctx && SSL_CTX_load_verify_locations(ctx, root, NULL) == 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL *ssl = SSL_new(ctx);
    const int fd = connected_socket();
    CHECK(ssl && SSL_set_fd(ssl, fd) == 1 && SSL_set1_host(ssl, host) == 1);
    const bool is_trusted = SSL_connect(ssl) == 1;
    if (is_trusted) {
        static const char request[] = "GET / HTTP/1.0\r\n\r\n";
        char answer[64] = "";
        CHECK(SSL_write(ssl, request, sizeof request - 1) == sizeof request - 1);
        CHECK(SSL_read(ssl, answer, sizeof answer - 1) > 12);
        CHECK(memcmp(answer, "HTTP/1.0 200", 12) == 0);
        SSL_shutdown(ssl);
    }
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
    return is_trusted;
}

/* By the library. */
static moor_err fetched(const char *host)
{
    char url[256];
    snprintf(url, sizeof url, "https://%s:%s/", host, port);
    moor_http_request request;
    moor_http_request_init(&request);
    request.url = url;
    moor_http_response *response = NULL;
    const moor_err e = moor_http_fetch(pool, &request, &response, NULL);
    CHECK(e || (response->head.status == 200 && response->body.len > 100));
    moor_http_response_free(response);
    return e;
}

static void *by_hand(void *host)
{
    for (int i = 0; i < ROUNDS; i++)
        CHECK(asked_by_hand(host));
    return NULL;
}

int main(int argc, char **argv)
{
    CHECK(argc == 5);
    port = argv[1];
    root = argv[2];
    CHECK(asked_by_hand(argv[3]));

    moor_runtime *runtime = NULL;
    moor_pool_options options;
    moor_pool_options_init(&options);
    options.tls_ca = root;
    options.conns_min_idle = 0;
    CHECK(moor_runtime_create(NULL, &runtime) == MOOR_OK);
    CHECK(moor_pool_open(runtime, NULL, &options, &pool) == MOOR_OK);
    CHECK(fetched(argv[3]) == MOOR_OK);
    CHECK(!asked_by_hand(argv[4]));
    CHECK(fetched(argv[4]) != MOOR_OK);
    CHECK(asked_by_hand(argv[3]));

    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, by_hand, argv[3]) == 0);
    for (int i = 0; i < ROUNDS; i++)
        CHECK(fetched(argv[3]) == MOOR_OK);
    CHECK(pthread_join(thread, NULL) == 0);

    CHECK(moor_pool_close(pool, 5000) == MOOR_OK);
    CHECK(moor_runtime_destroy(runtime, 5000) == MOOR_OK);
    CHECK(asked_by_hand(argv[3]));
    return 0;
}
