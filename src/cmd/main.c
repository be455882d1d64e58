/* main.c - picks the subcommand. Each subcommand is a file of its own beside this one. */
#include <stdio.h>

int main(void)
{
    printf("proa\n");
    return 0;
}
