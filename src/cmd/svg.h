/* svg.h - what the pictures of commands share: their frame and their text.
 *
 * A picture is an SVG file of shapes and text alone, without scripts, on white, so that it reads the same on a dark page.
 */
#ifndef PROA_CMD_SVG_H
#define PROA_CMD_SVG_H

#include "base/buf.h"

/* The opening of a file, the classes title, head, sub, axis, tick, middle, end and frame, those of `style`, and the white ground.
 * `attributes` are more of the svg element, "" for none. */
void proa_svg_begin(proa_buf *out, double width, double height, const char *attributes, const char *style);
void proa_svg_end(proa_buf *out);

/* Appends text for people, with what XML keeps for itself replaced and control characters left out. */
void proa_svg_escape(proa_buf *out, const char *text);

/* One line of text, 399 bytes at most; more is cut. */
void proa_svg_text(proa_buf *out, double x, double y, const char *class, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

#endif
