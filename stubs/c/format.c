/*
 * The functions of the C library with variable arguments that the engine calls: formatted output into memory.
 *
 * Integers, characters and strings, with every flag, width, precision and length of C11 7.21.6.1. There is no floating point:
 * it would need registers that this file is compiled not to touch, and the engine formats none. A conversion that is not
 * here stops the machine, by name. On a host the same code is compiled under other names and held against the system's.
 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#ifdef HUSK_HOSTED
#define NAME(name) husk_##name
#else
#define NAME(name) name
#endif

extern void *NAME(malloc)(size_t);
extern _Noreturn void husk_runtime_trap(const char *name);

/* A buffer of `room` bytes, and how many bytes were meant for it so far. */
struct sink {
  char *bytes;
  size_t room;
  size_t count;
};

static void put(struct sink *sink, char c) {
  if (sink->count < sink->room)
    sink->bytes[sink->count] = c;
  sink->count++;
}

static void fill(struct sink *sink, char c, int count) {
  for (; count > 0; count--)
    put(sink, c);
}

enum length { INT, CHAR, SHORT, LONG };

struct conversion {
  int left, zero, plus, space, alternative;
  int width;
  int precision; /* -1: none given */
  enum length length;
};

static int is_digit(char c) { return c >= '0' && c <= '9'; }

static int number(const char **format, va_list *arguments) {
  int value = 0;
  if (**format == '*') {
    (*format)++;
    return va_arg(*arguments, int);
  }
  while (is_digit(**format))
    value = value * 10 + (*(*format)++ - '0');
  return value;
}

static void flags(const char **format, struct conversion *to) {
  for (;; (*format)++) {
    switch (**format) {
    case '-': to->left = 1; break;
    case '0': to->zero = 1; break;
    case '+': to->plus = 1; break;
    case ' ': to->space = 1; break;
    case '#': to->alternative = 1; break;
    default: return;
    }
  }
}

static void length(const char **format, struct conversion *to) {
  for (;; (*format)++) {
    switch (**format) {
    case 'h': to->length = to->length == SHORT ? CHAR : SHORT; break;
    /* On x86-64 all of these have 64 bits. */
    case 'l': case 'z': case 'j': case 't': to->length = LONG; break;
    default: return;
    }
  }
}

static struct conversion parse(const char **format, va_list *arguments) {
  struct conversion to = {.precision = -1, .length = INT};
  flags(format, &to);
  to.width = number(format, arguments);
  if (to.width < 0) {
    to.left = 1;
    to.width = -to.width;
  }
  if (**format == '.') {
    (*format)++;
    to.precision = number(format, arguments);
    if (to.precision < 0)
      to.precision = -1;
  }
  length(format, &to);
  return to;
}

static void text(struct sink *sink, const struct conversion *how, const char *bytes) {
  int count = 0;
  if (!bytes)
    bytes = "(null)";
  while ((how->precision < 0 || count < how->precision) && bytes[count])
    count++;
  if (!how->left)
    fill(sink, ' ', how->width - count);
  for (int at = 0; at < count; at++)
    put(sink, bytes[at]);
  if (how->left)
    fill(sink, ' ', how->width - count);
}

static void character(struct sink *sink, const struct conversion *how, int c) {
  if (!how->left)
    fill(sink, ' ', how->width - 1);
  put(sink, (char)c);
  if (how->left)
    fill(sink, ' ', how->width - 1);
}

/* Writes `prefix` and the digits of `value`. */
static void integer(struct sink *sink, const struct conversion *how, const char *prefix, uint64_t value,
                    unsigned base, const char *alphabet) {
  char digits[24];
  int count = 0, prefix_count = 0;
  for (; value; value /= base)
    digits[count++] = alphabet[value % base];
  while (prefix[prefix_count])
    prefix_count++;
  int least = how->precision < 0 ? 1 : how->precision;
  if (how->alternative && base == 8 && least <= count)
    least = count + 1;
  int zeros = least > count ? least - count : 0;
  if (how->zero && !how->left && how->precision < 0 && how->width > prefix_count + count + zeros)
    zeros = how->width - prefix_count - count;
  int blanks = how->width - prefix_count - zeros - count;
  if (!how->left)
    fill(sink, ' ', blanks);
  while (*prefix)
    put(sink, *prefix++);
  fill(sink, '0', zeros);
  while (count)
    put(sink, digits[--count]);
  if (how->left)
    fill(sink, ' ', blanks);
}

static uint64_t unsigned_argument(enum length length, va_list *arguments) {
  uint64_t value = length == LONG ? va_arg(*arguments, uint64_t) : va_arg(*arguments, unsigned);
  return length == CHAR ? (unsigned char)value : length == SHORT ? (unsigned short)value : value;
}

static void signed_integer(struct sink *sink, const struct conversion *how, va_list *arguments) {
  int64_t value = how->length == LONG ? va_arg(*arguments, int64_t) : va_arg(*arguments, int);
  if (how->length == CHAR)
    value = (signed char)value;
  else if (how->length == SHORT)
    value = (short)value;
  const char *sign = value < 0 ? "-" : how->plus ? "+" : how->space ? " " : "";
  integer(sink, how, sign, value < 0 ? -(uint64_t)value : (uint64_t)value, 10, "0123456789");
}

static void pointer(struct sink *sink, struct conversion *how, const void *value) {
  how->zero = 0;
  if (!value)
    text(sink, how, "(nil)");
  else
    integer(sink, how, "0x", (uintptr_t)value, 16, "0123456789abcdef");
}

static void convert(struct sink *sink, char what, struct conversion *how, va_list *arguments) {
  uint64_t value;
  switch (what) {
  case '%': put(sink, '%'); return;
  case 'c': character(sink, how, va_arg(*arguments, int)); return;
  case 's': text(sink, how, va_arg(*arguments, const char *)); return;
  case 'p': pointer(sink, how, va_arg(*arguments, void *)); return;
  case 'd': case 'i': signed_integer(sink, how, arguments); return;
  case 'u': integer(sink, how, "", unsigned_argument(how->length, arguments), 10, "0123456789"); return;
  case 'o': integer(sink, how, "", unsigned_argument(how->length, arguments), 8, "01234567"); return;
  case 'x':
    value = unsigned_argument(how->length, arguments);
    integer(sink, how, how->alternative && value ? "0x" : "", value, 16, "0123456789abcdef");
    return;
  case 'X':
    value = unsigned_argument(how->length, arguments);
    integer(sink, how, how->alternative && value ? "0X" : "", value, 16, "0123456789ABCDEF");
    return;
  default: husk_runtime_trap("printf");
  }
}

static int format_into(char *bytes, size_t room, const char *format, va_list given) {
  struct sink sink = {bytes, room, 0};
  va_list arguments;
  va_copy(arguments, given);
  for (; *format; format++) {
    if (*format != '%') {
      put(&sink, *format);
      continue;
    }
    format++;
    struct conversion how = parse(&format, &arguments);
    convert(&sink, *format, &how, &arguments);
  }
  va_end(arguments);
  if (room)
    bytes[sink.count < room ? sink.count : room - 1] = 0;
  return (int)sink.count;
}

int NAME(__vsnprintf_chk)(char *bytes, size_t room, int flag, size_t real_room, const char *format, va_list arguments) {
  (void)flag;
  if (real_room < room)
    husk_runtime_trap("__vsnprintf_chk");
  return format_into(bytes, room, format, arguments);
}

int NAME(__snprintf_chk)(char *bytes, size_t room, int flag, size_t real_room, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int count = NAME(__vsnprintf_chk)(bytes, room, flag, real_room, format, arguments);
  va_end(arguments);
  return count;
}

int NAME(__asprintf_chk)(char **made, int flag, const char *format, ...) {
  (void)flag;
  va_list arguments;
  va_start(arguments, format);
  int count = format_into(0, 0, format, arguments);
  *made = NAME(malloc)((size_t)count + 1);
  if (*made)
    format_into(*made, (size_t)count + 1, format, arguments);
  va_end(arguments);
  return *made ? count : -1;
}
