/*
 * A management library of NVIDIA's that serves reports of real GPUs from a folder, or of made-up ones over sockets in it,
 * for tests.
 *
 * Functions, structures and codes are written after nvml.h, independently of the Rust that calls them. A real GPU can't be
 * made to sign for a new nonce here: a report is served only for the nonce that it answers, unless the folder says
 * `any-nonce`, which writes the new nonce over the old and breaks the signature. Where the folder has a socket `N.gpu`,
 * it is given the nonce and gives the report.
 *
 * The folder holds `count`, `driver`, `mode` (three numbers: confidential compute, devtools, multi-GPU mode), and for
 * each GPU `N.report`, `N.chain` and `N.architecture`. A file `fail` with a function's name and a code makes that
 * function fail; `hang` makes reports wait for ever; `lie` is the size that is said of every report.
 */

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef FOLDER
#error "compile with -DFOLDER=\"...\""
#endif

typedef unsigned int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;

struct nvmlDevice_st {
    unsigned int index;
};

typedef struct {
    unsigned int environment;
    unsigned int ccFeature;
    unsigned int devToolsMode;
} nvmlConfComputeSystemState_t;

typedef struct {
    unsigned int version;
    unsigned int environment;
    unsigned int ccFeature;
    unsigned int devToolsMode;
    unsigned int multiGpuMode;
} nvmlSystemConfComputeSettings_t;

typedef struct {
    unsigned int certChainSize;
    unsigned int attestationCertChainSize;
    uint8_t certChain[0x1000];
    uint8_t attestationCertChain[0x1400];
} nvmlConfComputeGpuCertificate_t;

typedef struct {
    unsigned int isCecAttestationReportPresent;
    unsigned int attestationReportSize;
    unsigned int cecAttestationReportSize;
    uint8_t nonce[0x20];
    uint8_t attestationReport[0x2000];
    uint8_t cecAttestationReport[0x1000];
} nvmlConfComputeGpuAttestationReport_t;

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       NO_DATA = 21, VERSION_MISMATCH = 25, UNKNOWN = 999 };

static int started;
static struct nvmlDevice_st devices[16];

static long read_file(const char *name, void *buffer, size_t size) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", FOLDER, name);
    FILE *file = fopen(path, "rb");
    if (!file)
        return -1;
    long length = (long)fread(buffer, 1, size, file);
    fclose(file);
    return length;
}

static unsigned int read_number(const char *name, unsigned int otherwise) {
    char text[32] = {0};
    unsigned int number = otherwise;
    if (read_file(name, text, sizeof text - 1) > 0)
        sscanf(text, "%u", &number);
    return number;
}

static nvmlReturn_t check(const char *function) {
    char text[128] = {0}, name[100];
    unsigned int code;
    if (read_file("fail", text, sizeof text - 1) > 0 && sscanf(text, "%99s %u", name, &code) == 2 &&
        strcmp(name, function) == 0)
        return code;
    return started ? SUCCESS : UNINITIALIZED;
}

static nvmlReturn_t write_text(const char *text, char *buffer, unsigned int size) {
    if (strlen(text) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, text);
    return SUCCESS;
}

#define CHECKED                                    \
    do {                                           \
        nvmlReturn_t status = check(__func__);     \
        if (status)                                \
            return status;                         \
    } while (0)

nvmlReturn_t nvmlInit_v2(void) {
    started++;
    nvmlReturn_t status = check(__func__);
    if (status)
        started--;
    return status;
}

nvmlReturn_t nvmlShutdown(void) {
    CHECKED;
    started--;
    return SUCCESS;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    CHECKED;
    char text[80] = {0};
    read_file("driver", text, sizeof text - 1);
    return write_text(text, version, length);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    CHECKED;
    *count = read_number("count", 0);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    CHECKED;
    if (index >= read_number("count", 0) || index >= 16)
        return INVALID_ARGUMENT;
    devices[index].index = index;
    *device = &devices[index];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    CHECKED;
    char text[80];
    snprintf(text, sizeof text, "GPU-00000000-0000-0000-0000-%012u", device->index);
    return write_text(text, uuid, length);
}

nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned int length) {
    CHECKED;
    (void)device;
    return write_text("96.00.9F.00.01", version, length);
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned int *architecture) {
    CHECKED;
    char name[40];
    snprintf(name, sizeof name, "%u.architecture", device->index);
    *architecture = read_number(name, 9);
    return SUCCESS;
}

nvmlReturn_t nvmlSystemGetConfComputeState(nvmlConfComputeSystemState_t *state) {
    CHECKED;
    char text[64] = {0};
    unsigned int multi;
    read_file("mode", text, sizeof text - 1);
    if (sscanf(text, "%u %u %u", &state->ccFeature, &state->devToolsMode, &multi) != 3)
        return NO_DATA;
    state->environment = 2;
    return SUCCESS;
}

#ifndef DRIVER_535
nvmlReturn_t nvmlSystemGetConfComputeSettings(nvmlSystemConfComputeSettings_t *settings) {
    CHECKED;
    if (settings->version != (sizeof *settings | 1u << 24))
        return VERSION_MISMATCH;
    char text[64] = {0};
    read_file("mode", text, sizeof text - 1);
    if (sscanf(text, "%u %u %u", &settings->ccFeature, &settings->devToolsMode, &settings->multiGpuMode) != 3)
        return NO_DATA;
    settings->environment = 2;
    return SUCCESS;
}
#endif

#ifndef DRIVER_525
nvmlReturn_t nvmlDeviceGetConfComputeGpuCertificate(nvmlDevice_t device, nvmlConfComputeGpuCertificate_t *certificate) {
    CHECKED;
    char name[40];
    snprintf(name, sizeof name, "%u.chain", device->index);
    uint8_t *chain = certificate->attestationCertChain;
    long length = read_file(name, chain, sizeof certificate->attestationCertChain);
    if (length < 0)
        return NOT_FOUND;
    certificate->attestationCertChainSize = (unsigned int)length;
    certificate->certChainSize = 0;
    return SUCCESS;
}

static long ask_gpu(unsigned int index, const uint8_t *nonce, uint8_t *buffer, size_t size) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if ((size_t)snprintf(address.sun_path, sizeof address.sun_path, "%s/%u.gpu", FOLDER, index) >= sizeof address.sun_path)
        return -1;
    int gpu = socket(AF_UNIX, SOCK_STREAM, 0);
    if (gpu < 0)
        return -1;
    long length = -1;
    if (connect(gpu, (struct sockaddr *)&address, sizeof address) == 0 && write(gpu, nonce, 32) == 32) {
        long got;
        length = 0;
        while ((size_t)length < size && (got = read(gpu, buffer + length, size - (size_t)length)) > 0)
            length += got;
    }
    close(gpu);
    return length;
}

nvmlReturn_t nvmlDeviceGetConfComputeGpuAttestationReport(nvmlDevice_t device,
                                                         nvmlConfComputeGpuAttestationReport_t *report) {
    CHECKED;
    char name[40], none[2];
    while (read_file("hang", none, sizeof none) >= 0)
        usleep(1000);
    snprintf(name, sizeof name, "%u.report", device->index);
    long length = ask_gpu(device->index, report->nonce, report->attestationReport, sizeof report->attestationReport);
    if (length < 0)
        length = read_file(name, report->attestationReport, sizeof report->attestationReport);
    if (length < 36)
        return NOT_FOUND;
    if (read_file("any-nonce", none, sizeof none) >= 0)
        memcpy(report->attestationReport + 4, report->nonce, sizeof report->nonce);
    else if (memcmp(report->attestationReport + 4, report->nonce, sizeof report->nonce) != 0 &&
             read_file("old-nonce", none, sizeof none) < 0)
        return UNKNOWN;
    report->attestationReportSize = read_number("lie", (unsigned int)length);
    report->isCecAttestationReportPresent = 0;
    report->cecAttestationReportSize = 0;
    return SUCCESS;
}
#endif
