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
    switch (attribute) {
    case 38: *value = 1000 * (device + 1); break;
    case 75: *value = capability / 10; break;
    case 76: *value = capability % 10; break;
    default: return 1;
    }
    return 0;
}
