/* The subcommands that connect to something. Each takes its own argv, [0] being its name, and returns an exit code. */
#ifndef TOOL_COMMANDS_H
#define TOOL_COMMANDS_H

int get_main(int argc, char **argv);
int load_main(int argc, char **argv);
int pool_main(int argc, char **argv);
int ping_main(int argc, char **argv);

#endif
