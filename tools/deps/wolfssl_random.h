/* Included before every file of wolfSSL, assembly too; see wolfssl_random.c. */
#ifndef __ASSEMBLER__
int mr_wolfssl_random(unsigned char *into, unsigned int len);
#endif
