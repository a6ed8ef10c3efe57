/* A libcuda whose answers are environment variables. A driver also hides GPUs by CUDA_VISIBLE_DEVICES. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name) {
    const char *value = getenv(name);
    return value ? atoi(value) : 0;
}

int cuDriverGetVersion(int *version) {
    *version = number("STUB_VERSION");
    return 0;
}

int cuInit(unsigned flags) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    return visible && !strlen(visible) ? 100 : number("STUB_INIT");
}

int cuDeviceGetCount(int *count) {
    *count = number("STUB_COUNT");
    return 0;
}

int cuDeviceGetName(char *name, int bytes, int device) {
    snprintf(name, bytes, "GPU %d of %s", device, getenv("CUDA_DEVICE_ORDER"));
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = number("STUB_CAPABILITY");
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1;
    return 0;
}
