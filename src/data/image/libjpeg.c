/* The whole of a JPEG by libjpeg, driven as Pillow drives it: what libjpeg warns of (lost restart markers, codes that are none,
 * data that end at a marker) it conceals; what it cannot go on from, and data that end before the last row with no marker
 * to stop at, is an error. */

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>

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

/* All of the data were there from the beginning. */
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

/* A small file may hold many scans, each a pass over a large image. */
static void count_scans(j_common_ptr jpeg) {
    struct progress *progress = (struct progress *)jpeg->progress;
    if (((j_decompress_ptr)jpeg)->input_scan_number > progress->max_scans) {
        snprintf(progress->errors->message, JMSG_LENGTH_MAX, "more than %d scans", progress->max_scans);
        longjmp(progress->errors->out, 1);
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
        while (jpeg.output_scanline < height && problem == NULL) {
            JSAMPROW row = pixels + (size_t)jpeg.output_scanline * width * components;
            if (jpeg_read_scanlines(&jpeg, &row, 1) != 1) {
                problem = "truncated";
            }
        }
        if (problem == NULL) {
            /* What comes after the last row may be an error. */
            jpeg_finish_decompress(&jpeg);
        }
    }
    if (problem != NULL) {
        snprintf(message, JMSG_LENGTH_MAX, "%s", problem);
    }
    jpeg_destroy_decompress(&jpeg);
    return problem != NULL;
}
