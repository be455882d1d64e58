/* regex_property.c - a table of names: PCRE2 knows categories by their short names only, and takes a bare script name for
 * script extensions, which Oniguruma's are not. */
#include "text/regex_property.h"

#include <string.h>

/* General categories by normalised name, and what is constant among Unicode versions; everything else is taken as a
 * script. Other properties change with the version (U+0364 became Alphabetic), so they are left out. */
static const struct {
    const char *name;
    const char *pcre;
} property_names[] = {
    {"any", "Any"},
    {"digit", "Nd"},
    {"space", "Xsp"},
    {"whitespace", "Xsp"},
    {"letter", "L"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"privateuse", "Co"},
    {"unassigned", "Cn"},
};

static bool is_category(const char *name, size_t length)
{
    static const char *const letters = "lmnpszc";
    static const char *const second[] = {"ultmo", "nce", "dlo", "cdseifo", "mcko", "slp", "cfno"};
    const char *group = strchr(letters, name[0]);
    if (group == NULL || length > 2)
        return false;
    return length == 1 || strchr(second[group - letters], name[1]) != NULL;
}

/* Lower case, letters and digits only. 0 when empty, too long or with other characters. */
static size_t normalise(const char *name, size_t length, char out[64])
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        char c = name[i];
        if (c == ' ' || c == '_' || c == '-')
            continue;
        bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!word || n == 63)
            return 0;
        out[n++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    out[n] = 0;
    return n;
}

bool proa_regex_property(const char *name, size_t length, bool negated, proa_buf *out)
{
    char normal[64];
    size_t n = normalise(name, length, normal);
    if (n == 0)
        return false;
    const char *sign = negated ? "\\P" : "\\p";
    if (is_category(normal, n)) {
        normal[0] = (char)(normal[0] - 32);
        proa_buf_append_format(out, "%s{%s}", sign, normal);
        return true;
    }
    for (size_t i = 0; i < sizeof property_names / sizeof property_names[0]; i++) {
        if (strcmp(normal, property_names[i].name) == 0) {
            proa_buf_append_format(out, "%s{%s}", sign, property_names[i].pcre);
            return true;
        }
    }
    proa_buf_append_format(out, "%s{sc:%s}", sign, normal);
    return true;
}
