/* The subcommands that make requests. Each takes its own argv, [0] being its name, and returns an exit code. */
#ifndef TOOL_GET_H
#define TOOL_GET_H

int get_main(int argc, char **argv);
int load_main(int argc, char **argv);

#endif
