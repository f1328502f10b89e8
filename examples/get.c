/* Fetches a URL: examples/get http://127.0.0.1:8080/ */
#include <mooring/mooring.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    moor_runtime *runtime = NULL;
    moor_pool *pool = NULL;
    moor_http_response *response = NULL;
    moor_http_request request;
    moor_http_request_init(&request);
    request.url = argc > 1 ? argv[1] : "http://127.0.0.1:8080/";
    moor_err e = moor_runtime_create(NULL, &runtime);
    if (!e)
        e = moor_pool_open(runtime, NULL, NULL, &pool); /* NULL: any host */
    if (!e)
        e = moor_http_fetch(pool, &request, &response, NULL);
    if (e)
        fprintf(stderr, "%s\n", moor_err_text(e));
    else
        fwrite(response->body.base, 1, response->body.len, stdout);
    moor_http_response_free(response);
    return moor_pool_close(pool, 1000) | moor_runtime_destroy(runtime, 1000) | e;
}
