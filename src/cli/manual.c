#include "manual.h"

#include "bash_completion.h"
#include "manual_page.h"
#include "mpress_commit.h"

#include <errno.h>
#include <string.h>

/* Where the list of the commands stands in a template: a line of its own. */
static const char marker[] = "@COMMANDS@\n";

static const struct page {
    const char *word;
    const char *template;
    void (*command)(const mp_command_line *line, FILE *to);
    int titled; /* begins with the line that man takes date and version from */
} pages[] = {
    {"--man", manual_page, mp_options_manual, 1},
    {"--bash-completion", bash_completion, mp_options_completion, 0},
};

enum { PAGES = sizeof pages / sizeof pages[0] };

static const struct page *find(const char *word)
{
    for (int i = 0; i < PAGES; i++)
        if (strcmp(pages[i].word, word) == 0) return &pages[i];
    return NULL;
}

int manual_knows(const char *word)
{
    return find(word) != NULL;
}

mp_status manual_print(const char *word, const mp_command *const *commands, int n, FILE *to)
{
    const struct page *page = find(word);
    const char *at = page != NULL ? strstr(page->template, marker) : NULL;

    if (at == NULL) return mp_fail(MP_ERR_INTERNAL, "%s: no template with a marker", word);
    if (page->titled)
        fprintf(to, ".TH MPRESS 1 \"%s\" \"mpress %s\" \"User Commands\"\n", MPRESS_DATE,
                MPRESS_VERSION);
    fwrite(page->template, 1, (size_t)(at - page->template), to);
    for (int i = 0; i < n; i++) page->command(commands[i]->line, to);
    fputs(at + strlen(marker), to);
    if (fflush(to) != 0 || ferror(to))
        return mp_fail(MP_ERR_IO, "%s: writing to standard output failed: %s", word,
                       strerror(errno));
    return MP_OK;
}
