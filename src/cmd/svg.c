/* svg.c - see svg.h. */
#include "cmd/svg.h"

#include <stdarg.h>
#include <stdio.h>

void proa_svg_begin(proa_buf *out, double width, double height, const char *attributes, const char *style)
{
    proa_buf_append_format(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
        "viewBox=\"0 0 %.0f %.0f\"%s%s font-family=\"Helvetica, Arial, sans-serif\">\n"
        "<style>text{fill:#333;font-size:11px}.title{font-size:17px;font-weight:bold}.head{font-size:13px;"
        "font-weight:bold}.sub,.axis{fill:#666}.tick{font-size:10px}.middle{text-anchor:middle}"
        ".end{text-anchor:end}.frame{fill:none;stroke:#999}%s</style>\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
        width, height, width, height, attributes[0] != '\0' ? " " : "", attributes, style);
}

void proa_svg_end(proa_buf *out)
{
    proa_buf_append_text(out, "</svg>\n");
}

void proa_svg_escape(proa_buf *out, const char *text)
{
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '<' || *c == '>' || *c == '&' || *c == '"')
            proa_buf_append_format(out, "&#%d;", *c);
        else if ((unsigned char)*c >= 0x20)
            proa_buf_append_char(out, *c);
    }
}

void proa_svg_text(proa_buf *out, double x, double y, const char *class, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    proa_buf_append_format(out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
    proa_svg_escape(out, text);
    proa_buf_append_text(out, "</text>\n");
}
