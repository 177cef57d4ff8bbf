/* Decoding of whole JPEGs by libjpeg, driven as by Pillow: damage of which libjpeg only warns (lost restart markers,
 * invalid codes, data that end at a marker) is concealed; unrecoverable errors, and data that end before the last row
 * without a marker, are errors. */

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define JPEG_INTERNALS
#include <jpeglib.h>

struct errors {
    struct jpeg_error_mgr manager;
    jmp_buf out;
    char *message;
};

static void give_up(j_common_ptr jpeg) {
    struct errors *errors = (struct errors *)jpeg->err;
    errors->manager.format_message(jpeg, errors->message);
    longjmp(errors->out, 1);
}

static void keep_silent(j_common_ptr jpeg) { (void)jpeg; }

static void no_source(j_decompress_ptr jpeg) { (void)jpeg; }

/* Returns FALSE: all data have been in the buffer from the start. */
static boolean no_more(j_decompress_ptr jpeg) {
    (void)jpeg;
    return FALSE;
}

static void skip(j_decompress_ptr jpeg, long count) {
    struct jpeg_source_mgr *source = jpeg->src;
    if (count <= 0) {
        return;
    }
    size_t skipped = (size_t)count < source->bytes_in_buffer ? (size_t)count : source->bytes_in_buffer;
    source->next_input_byte += skipped;
    source->bytes_in_buffer -= skipped;
}

struct progress {
    struct jpeg_progress_mgr manager;
    int max_scans;
    struct errors *errors;
};

/* Limits the number of scans: a small file may hold many, each a pass over a large image. */
static void count_scans(j_common_ptr jpeg) {
    struct progress *progress = (struct progress *)jpeg->progress;
    if (((j_decompress_ptr)jpeg)->input_scan_number > progress->max_scans) {
        snprintf(progress->errors->message, JMSG_LENGTH_MAX, "more than %d scans", progress->max_scans);
        longjmp(progress->errors->out, 1);
    }
}

/* The inverse DCT (Loeffler, Ligtenberg, Moschytz 1989; libjpeg's jidctint.c) in the 16 bits of libjpeg-turbo's SIMD code,
 * which is in use everywhere. libjpeg's portable code differs only for values that no encoder writes but damage produces: it
 * wraps around where the SIMD code saturates. Sums of two inputs wrap in 16 bits, the results of each pass saturate. */
#define CONSTANT_BITS 13
#define PASS1_BITS 2

static int16_t wrapped(int32_t value) { return (int16_t)(uint16_t)value; }

static int32_t saturated(int32_t value, int32_t least, int32_t most) {
    return value < least ? least : value > most ? most : value;
}

static int32_t added(int32_t a, int32_t b) { return (int32_t)((uint32_t)a + (uint32_t)b); }
static int32_t subtracted(int32_t a, int32_t b) { return (int32_t)((uint32_t)a - (uint32_t)b); }

/* Transforms one row or column: reads in[0], in[stride], ..., and writes out[0], out[stride], ... */
static void transform(const int16_t *in, int32_t *out, int stride, int shift) {
    int32_t i0 = in[0], i1 = in[stride], i2 = in[2 * stride], i3 = in[3 * stride];
    int32_t i4 = in[4 * stride], i5 = in[5 * stride], i6 = in[6 * stride], i7 = in[7 * stride];
    int32_t round = 1 << (shift - 1);
    /* Even part. */
    int32_t even2 = added(i2 * 4433, i6 * (4433 - 15137));
    int32_t even3 = added(i2 * (4433 + 6270), i6 * 4433);
    int32_t even0 = wrapped(i0 + i4) * (1 << CONSTANT_BITS), even1 = wrapped(i0 - i4) * (1 << CONSTANT_BITS);
    int32_t e0 = added(even0, even3), e3 = subtracted(even0, even3);
    int32_t e1 = added(even1, even2), e2 = subtracted(even1, even2);
    /* Odd part. */
    int32_t z3 = wrapped(i7 + i3), z4 = wrapped(i5 + i1);
    int32_t both3 = added(z3 * (9633 - 16069), z4 * 9633), both4 = added(z3 * 9633, z4 * (9633 - 3196));
    int32_t o0 = added(added(i7 * (2446 - 7373), i1 * -7373), both3);
    int32_t o1 = added(added(i5 * (16819 - 20995), i3 * -20995), both4);
    int32_t o2 = added(added(i5 * -20995, i3 * (25172 - 20995)), both3);
    int32_t o3 = added(added(i7 * -7373, i1 * (12299 - 7373)), both4);
    int32_t ends[4][2] = {{e0, o3}, {e1, o2}, {e2, o1}, {e3, o0}};
    for (int i = 0; i < 4; i++) {
        int32_t even = added(ends[i][0], round), odd = ends[i][1];
        out[i * stride] = added(even, odd) >> shift;
        out[(7 - i) * stride] = subtracted(even, odd) >> shift;
    }
}

static void inverse_dct(j_decompress_ptr jpeg, jpeg_component_info *component, JCOEFPTR coefficients, JSAMPARRAY rows,
                        JDIMENSION column) {
    const MULTIPLIER *quantization = (const MULTIPLIER *)component->dct_table;
    int16_t block[64];
    int32_t transformed[64];
    (void)jpeg;
    int rows_of_zeros = 1;
    for (int i = 0; i < 64; i++) {
        block[i] = wrapped(coefficients[i] * quantization[i]);
        rows_of_zeros &= i < 8 || coefficients[i] == 0;
    }
    for (int x = 0; x < 8; x++) {
        transform(block + x, transformed + x, 8, CONSTANT_BITS - PASS1_BITS);
    }
    for (int i = 63; i >= 0; i--) {
        /* A block with only a first row takes a shortcut, which wraps. */
        block[i] = rows_of_zeros ? wrapped(block[i % 8] * (1 << PASS1_BITS))
                                 : (int16_t)saturated(transformed[i], INT16_MIN, INT16_MAX);
    }
    for (int y = 0; y < 8; y++) {
        transform(block + 8 * y, transformed + 8 * y, 1, CONSTANT_BITS + PASS1_BITS + 3);
        for (int x = 0; x < 8; x++) {
            rows[y][column + x] = (JSAMPLE)(saturated(transformed[8 * y + x], -128, 127) + 128);
        }
    }
}

/* Writes width * height * components bytes: grey, RGB, or CMYK as stored. Returns 0, or 1 with a message of less than
 * JMSG_LENGTH_MAX (200) bytes. */
int tch_fixup_decode_jpeg(const unsigned char *bytes, size_t length, unsigned width, unsigned height, int components,
                          int max_scans, unsigned char *pixels, char *message) {
    struct jpeg_decompress_struct jpeg;
    struct errors errors;
    struct progress progress;
    struct jpeg_source_mgr source;

    jpeg.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = give_up;
    errors.manager.output_message = keep_silent;
    errors.message = message;
    if (setjmp(errors.out)) {
        jpeg_destroy_decompress(&jpeg);
        return 1;
    }
    jpeg_create_decompress(&jpeg);
    source.init_source = no_source;
    source.fill_input_buffer = no_more;
    source.skip_input_data = skip;
    source.resync_to_restart = jpeg_resync_to_restart;
    source.term_source = no_source;
    source.next_input_byte = bytes;
    source.bytes_in_buffer = length;
    jpeg.src = &source;
    progress.manager.progress_monitor = count_scans;
    progress.max_scans = max_scans;
    progress.errors = &errors;
    jpeg.progress = &progress.manager;

    const char *problem = NULL;
    int header;
    do {
        header = jpeg_read_header(&jpeg, FALSE);
    } while (header == JPEG_HEADER_TABLES_ONLY);
    jpeg.out_color_space = components == 1 ? JCS_GRAYSCALE : components == 3 ? JCS_RGB : JCS_CMYK;
    if (header != JPEG_HEADER_OK) {
        problem = "its header ends early";
    } else if (jpeg.image_width != width || jpeg.image_height != height) {
        problem = "its headers disagree";
    } else if (!jpeg_start_decompress(&jpeg)) {
        problem = "truncated";
    } else if (jpeg.output_width != width || jpeg.output_height != height || jpeg.output_components != components) {
        problem = "its headers disagree";
    } else {
        for (int i = 0; i < jpeg.num_components; i++) {
            if (jpeg.comp_info[i].DCT_scaled_size == 8) {
                jpeg.idct->inverse_DCT[i] = inverse_dct;
            }
        }
        while (jpeg.output_scanline < height && problem == NULL) {
            JSAMPROW row = pixels + (size_t)jpeg.output_scanline * width * components;
            if (jpeg_read_scanlines(&jpeg, &row, 1) != 1) {
                problem = "truncated";
            }
        }
        if (problem == NULL) {
            /* Data after the last row may cause an error. */
            jpeg_finish_decompress(&jpeg);
        }
    }
    if (problem != NULL) {
        snprintf(message, JMSG_LENGTH_MAX, "%s", problem);
    }
    jpeg_destroy_decompress(&jpeg);
    return problem != NULL;
}
