/* A CUDA driver of host memory, for tests of what surrounds a real one.

   Device memory is host memory; a module image is text ("poke_words"), and launches of the two
   kernels that it knows are executed when the stream would. Each call is a line in the file that
   STUB_LOG names. Faults, by environment variable:

     STUB_FAIL=cuInit=100,cuMemcpyHtoDAsync=2@3   code, from the n-th call on (n counts from 1;
                                                  cuX=2@3:1 fails that one call only)
     STUB_MEMORY=bytes          what cuMemAlloc may hand out
     STUB_ATTR=18=1,113=0       device attributes by number
     STUB_DRIVER=13000          API version
     STUB_HANG=n                nothing finishes any more from the n-th launch on
     STUB_REFUSE_READ_ONLY=801  code of cuMemHostRegister with the read-only flag
     STUB_REFUSE_PLAIN=1        the same without
     STUB_ORDER=n               graphs run in other orders that their edges allow, from seed n on
     STUB_REFUSE_EARLY=1        graphs with programmatic edges are not instantiated

   A context is current in the thread that made it current, and nowhere else: calls that need one
   answer 201 in other threads.

   Codes 700 and above are sticky: every later call of most kinds repeats them. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ptr;
#define API __attribute__((visibility("default")))

static FILE *log_file;
static int sticky, n_launched, capturing;
static __thread void *current; /* context of this thread */
static unsigned long long used;

typedef struct { char name[64]; int n; } Counter;
static Counter counters[128];

static void note(const char *text) {
    if (!log_file) {
        const char *path = getenv("STUB_LOG");
        log_file = fopen(path ? path : "/dev/null", "a");
        setvbuf(log_file, NULL, _IOLBF, 0);
    }
    fprintf(log_file, "%s\n", text);
}

static int count(const char *name) {
    for (int i = 0; i < 128; i++) {
        if (!counters[i].name[0]) strncpy(counters[i].name, name, 63);
        if (!strcmp(counters[i].name, name)) return ++counters[i].n;
    }
    return 0;
}

/* Code with which a call must fail, 0 for none. */
static int fault(const char *name) {
    int n = count(name);
    const char *at = getenv("STUB_FAIL");
    size_t length = strlen(name);
    while (at && *at) {
        if (!strncmp(at, name, length) && at[length] == '=') {
            int code = 0, from = 1, times = 1 << 30;
            sscanf(at + length + 1, "%d@%d:%d", &code, &from, &times);
            if (n >= from && n < (long long)from + times) {
                if (code >= 700 && code != 712 && code != 713 && code != 801) sticky = code;
                return code;
            }
        }
        at = strchr(at, ',');
        if (at) at++;
    }
    return sticky;
}

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

#define CALL(name, ...)                              \
    do {                                             \
        char text_[256];                             \
        snprintf(text_, sizeof text_, name __VA_ARGS__); \
        note(text_);                                 \
    } while (0);                                     \
    do {                                             \
        int code_ = fault(__func__);                 \
        if (code_) return code_;                     \
    } while (0)

/* The same for calls that need a context in this thread. */
#define CALL_IN(name, ...)             \
    CALL(name, __VA_ARGS__);           \
    do {                               \
        if (!current) return 201;      \
    } while (0)

/* Start and device */

API int cuInit(unsigned flags) { CALL("cuInit"); return 0; }
API int cuDriverGetVersion(int *v) { CALL("cuDriverGetVersion"); *v = setting("STUB_DRIVER", 13000); return 0; }
API int cuDeviceGetCount(int *n) { CALL("cuDeviceGetCount"); *n = setting("STUB_DEVICES", 1); return 0; }
API int cuDeviceGet(int *d, int i) { CALL("cuDeviceGet"); *d = i; return 0; }
API int cuDeviceGetName(char *s, int n, int d) { CALL("cuDeviceGetName"); snprintf(s, n, "Stub H100"); return 0; }
API int cuDeviceTotalMem(size_t *n, int d) { CALL("cuDeviceTotalMem"); *n = setting("STUB_MEMORY", 1L << 30); return 0; }
API int cuDeviceGetAttribute(int *v, int which, int d) {
    CALL("cuDeviceGetAttribute");
    switch (which) {
        case 16: *v = 132; break;
        case 75: *v = 9; break;
        case 97: *v = 232448; break;
        case 99: *v = 1; break;
        default: *v = 0;
    }
    const char *at = getenv("STUB_ATTR");
    while (at && *at) {
        int number, value;
        if (sscanf(at, "%d=%d", &number, &value) == 2 && number == which) *v = value;
        at = strchr(at, ',');
        if (at) at++;
    }
    return 0;
}
API int cuDevicePrimaryCtxRetain(void **c, int d) { CALL("cuDevicePrimaryCtxRetain"); *c = (void *)16; return 0; }
API int cuDevicePrimaryCtxRelease(int d) { CALL("cuDevicePrimaryCtxRelease"); return 0; }
API int cuCtxSetCurrent(void *c) { CALL("cuCtxSetCurrent"); current = c; return 0; }
API int cuCtxGetCurrent(void **c) { *c = current; return 0; }
API int cuGetErrorName(int code, const char **s) {
    *s = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_STUB";
    return 0;
}
API int cuGetErrorString(int code, const char **s) { *s = "as the stub was told"; return 0; }

/* Memory */

typedef struct { ptr address; size_t n; } Block;
static Block blocks[4096];

API int cuMemGetInfo(size_t *free_, size_t *total) {
    CALL_IN("cuMemGetInfo");
    *total = setting("STUB_MEMORY", 1L << 30);
    *free_ = *total - used;
    return 0;
}
API int cuMemAlloc(ptr *p, size_t n) {
    CALL_IN("cuMemAlloc", " %zu", n);
    if (used + n > (unsigned long long)setting("STUB_MEMORY", 1L << 30)) return 2;
    void *memory;
    if (posix_memalign(&memory, 256, n + 256)) return 2;
    memset(memory, 0xFF, n);
    *p = (ptr)(uintptr_t)memory;
    used += n;
    for (int i = 0; i < 4096; i++)
        if (!blocks[i].address) { blocks[i] = (Block){*p, n}; return 0; }
    return 2;
}
API int cuMemFree(ptr p) {
    CALL_IN("cuMemFree");
    if (capturing) return 901;
    for (int i = 0; i < 4096; i++)
        if (blocks[i].address == p) {
            used -= blocks[i].n;
            blocks[i].address = 0;
            free((void *)(uintptr_t)p);
            return 0;
        }
    return 1;
}
static int inside(ptr p, size_t n) {
    for (int i = 0; i < 4096; i++)
        if (blocks[i].address && blocks[i].address <= p && p + n <= blocks[i].address + blocks[i].n) return 1;
    return 0;
}
API int cuMemHostAlloc(void **p, size_t n, unsigned flags) {
    CALL_IN("cuMemHostAlloc", " %zu", n);
    *p = malloc(n);
    return *p ? 0 : 2;
}
API int cuMemFreeHost(void *p) { CALL_IN("cuMemFreeHost"); free(p); return 0; }
API int cuMemHostRegister(void *p, size_t n, unsigned flags) {
    CALL_IN("cuMemHostRegister", " %zu %u %d", n, flags, (int)((uintptr_t)p % 4096));
    return flags & 8 ? setting("STUB_REFUSE_READ_ONLY", 0) : setting("STUB_REFUSE_PLAIN", 0);
}
API int cuMemHostUnregister(void *p) { CALL_IN("cuMemHostUnregister"); return 0; }
API int cuMemHostGetDevicePointer(ptr *d, void *p, unsigned flags) {
    CALL_IN("cuMemHostGetDevicePointer");
    *d = (ptr)(uintptr_t)p;
    return 0;
}

/* Work: executed at once, or kept while capturing. */

enum { COPY_IN, COPY_OUT, COPY, FILL, LAUNCH };
typedef struct {
    int kind; ptr target, source; size_t n; int byte; char name[64]; ptr values[32];
    int before[64], n_before; /* of a graph of nodes: numbers of those that it waits for */
} Work;
typedef struct { Work *work; int n, room, nodes, early; } Graph;
static Graph *captured;

/* Kernels that the stub knows, by name; their slots are 8 bytes, 32-bit values in the low half. */
static void run_kernel(Work *w) {
    if (!strcmp(w->name, "ds4_poke_words")) {
        uint32_t *target = (uint32_t *)(uintptr_t)w->values[0];
        for (uint32_t i = 0; i < (uint32_t)w->values[1]; i++) target[i] = (uint32_t)w->values[2 + i];
    } else if (!strcmp(w->name, "ds4_stub_add")) {
        *(uint32_t *)(uintptr_t)w->values[0] += (uint32_t)w->values[1];
    }
}
static int perform(Work *w) {
    switch (w->kind) {
        case COPY_IN: if (!inside(w->target, w->n)) return 1; break;
        case COPY_OUT: if (!inside(w->source, w->n)) return 1; break;
        case COPY: if (!inside(w->source, w->n) || !inside(w->target, w->n)) return 1; break;
        case FILL:
            if (!inside(w->target, w->n)) return 1;
            memset((void *)(uintptr_t)w->target, w->byte, w->n);
            return 0;
        case LAUNCH: n_launched++; run_kernel(w); return 0;
    }
    memcpy((void *)(uintptr_t)w->target, (void *)(uintptr_t)w->source, w->n);
    return 0;
}
static void append(Graph *g, Work w) {
    if (g->n == g->room) {
        g->room = g->room ? 2 * g->room : 16;
        g->work = realloc(g->work, g->room * sizeof(Work));
    }
    g->work[g->n++] = w;
}
static int submit(Work w) {
    if (!capturing) return perform(&w);
    if (w.kind == COPY_IN || w.kind == COPY_OUT) return 900;
    append(captured, w);
    return 0;
}
API int cuMemcpyHtoDAsync(ptr d, const void *h, size_t n, void *s) {
    CALL_IN("cuMemcpyHtoDAsync", " %zu", n);
    return submit((Work){COPY_IN, d, (ptr)(uintptr_t)h, n});
}
API int cuMemcpyDtoHAsync(void *h, ptr d, size_t n, void *s) {
    CALL_IN("cuMemcpyDtoHAsync", " %zu", n);
    return submit((Work){COPY_OUT, (ptr)(uintptr_t)h, d, n});
}
API int cuMemcpyDtoDAsync(ptr d, ptr from, size_t n, void *s) {
    CALL_IN("cuMemcpyDtoDAsync", " %zu", n);
    return submit((Work){COPY, d, from, n});
}
API int cuMemsetD8Async(ptr d, unsigned char byte, size_t n, void *s) {
    CALL_IN("cuMemsetD8Async", " %zu", n);
    return submit((Work){FILL, d, 0, n, byte});
}

/* Streams and events */

static int unfinished(void) {
    long from = setting("STUB_HANG", 0);
    return from && n_launched >= from ? 600 : 0;
}
API int cuStreamCreate(void **s, unsigned flags) { CALL_IN("cuStreamCreate", " %u", flags); *s = (void *)32; return 0; }
API int cuStreamDestroy(void *s) { CALL_IN("cuStreamDestroy"); return 0; }
API int cuStreamQuery(void *s) { CALL_IN("cuStreamQuery"); return unfinished(); }
API int cuEventCreate(void **e, unsigned flags) { CALL_IN("cuEventCreate"); *e = malloc(8); return 0; }
API int cuEventDestroy(void *e) { CALL_IN("cuEventDestroy"); free(e); return 0; }
API int cuEventRecord(void *e, void *s) { CALL_IN("cuEventRecord"); *(long *)e = n_launched; return 0; }
API int cuEventQuery(void *e) { CALL_IN("cuEventQuery"); return unfinished(); }
/* A millisecond for each launch between the two. */
API int cuEventElapsedTime(float *ms, void *a, void *b) {
    CALL_IN("cuEventElapsedTime");
    *ms = (float)(*(long *)b - *(long *)a);
    return 0;
}

/* Kernels */

API int cuModuleLoadData(void **m, const void *image) {
    CALL_IN("cuModuleLoadData");
    *m = strdup(image);
    return 0;
}
API int cuModuleUnload(void *m) { CALL_IN("cuModuleUnload"); return 0; }
API int cuModuleGetFunction(void **f, void *m, const char *name) {
    CALL_IN("cuModuleGetFunction", " %s", name);
    if (strcmp(m, name)) return 500;
    *f = strdup(name);
    return 0;
}
API int cuFuncSetAttribute(void *f, int which, int value) { CALL_IN("cuFuncSetAttribute", " %d %d", which, value); return 0; }
API int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned smem, void *s, void **params, void **extra) {
    CALL_IN("cuLaunchKernel", " %s %u,%u,%u %u %u", (char *)f, gx, gy, gz, bx, smem);
    Work w = {LAUNCH};
    strncpy(w.name, f, 63);
    int n = !strcmp(f, "ds4_poke_words") ? 18 : !strcmp(f, "ds4_stub_add") ? 2 : 0;
    for (int i = 0; i < n; i++) w.values[i] = *(ptr *)params[i];
    return submit(w);
}

/* Graphs */

API int cuStreamBeginCapture(void *s, int mode) {
    CALL_IN("cuStreamBeginCapture", " %d", mode);
    capturing = 1;
    captured = calloc(1, sizeof(Graph));
    return 0;
}
API int cuStreamEndCapture(void *s, void **g) {
    capturing = 0;
    *g = captured;
    CALL("cuStreamEndCapture");
    return 0;
}
API int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long flags) {
    CALL_IN("cuGraphInstantiate", " %d", ((Graph *)g)->n);
    if (((Graph *)g)->early && setting("STUB_REFUSE_EARLY", 0)) return 801;
    *e = g;
    return 0;
}
API int cuGraphDestroy(void *g) { CALL("cuGraphDestroy"); return 0; }
API int cuGraphExecDestroy(void *g) { CALL_IN("cuGraphExecDestroy"); return 0; }
API int cuGraphLaunch(void *e, void *s) {
    CALL_IN("cuGraphLaunch");
    Graph *g = e;
    if (!g->nodes) {
        for (int i = 0; i < g->n; i++) {
            int code = perform(&g->work[i]);
            if (code) return code;
        }
        return 0;
    }
    /* Any node whose predecessors are done: the last such one, or by a small generator. */
    char *done = calloc(g->n + 1, 1);
    static unsigned seed; /* goes on from launch to launch */
    if (!seed) seed = setting("STUB_ORDER", 0);
    for (int k = 0; k < g->n; k++) {
        int chosen = -1, seen = 0;
        for (int i = 0; i < g->n; i++) {
            int ready = !done[i];
            for (int j = 0; j < g->work[i].n_before; j++) ready &= done[g->work[i].before[j]];
            if (!ready) continue;
            seen++;
            seed = seed * 1664525u + 1013904223u;
            if (chosen < 0 || !setting("STUB_ORDER", 0) || seed % seen == 0) chosen = i;
        }
        int code = perform(&g->work[chosen]);
        if (code) return code;
        done[chosen] = 1;
    }
    free(done);
    return 0;
}
API int cuGraphCreate(void **g, unsigned flags) {
    CALL("cuGraphCreate");
    Graph *made = calloc(1, sizeof(Graph));
    made->nodes = 1;
    *g = made;
    return 0;
}
/* A node is its number in the graph and one, since a null pointer is no node. */
static int add_node(void **node, Graph *g, void *const *before, size_t n, Work w) {
    if (n > 64) return 1;
    for (size_t i = 0; i < n; i++) {
        long number = (long)(uintptr_t)before[i] - 1;
        if (number < 0 || number >= g->n) return 1;
        w.before[i] = (int)number;
    }
    w.n_before = (int)n;
    append(g, w);
    *node = (void *)(uintptr_t)g->n;
    return 0;
}
typedef struct {
    void *func;
    unsigned gx, gy, gz, bx, by, bz, smem;
    void **params, **extra;
} KernelNode;
static Work launch_of(const KernelNode *p) {
    Work w = {LAUNCH};
    strncpy(w.name, p->func, 63);
    int n = !strcmp(w.name, "ds4_poke_words") ? 18 : !strcmp(w.name, "ds4_stub_add") ? 2 : 0;
    for (int i = 0; i < n; i++) w.values[i] = *(ptr *)p->params[i];
    return w;
}
API int cuGraphAddKernelNode_v2(void **node, void *g, void *const *before, size_t n, const KernelNode *p) {
    CALL_IN("cuGraphAddKernelNode", " %s %u,%u,%u %u %u after %zu", (char *)p->func, p->gx, p->gy, p->gz, p->bx, p->smem, n);
    return add_node(node, g, before, n, launch_of(p));
}
/* Nodes behind programmatic edges come this way: type, then the parameters of a kernel. */
typedef struct { int type, reserved[3]; KernelNode kernel; } AnyNode;
typedef struct { unsigned char from, to, type, reserved[5]; } Edge;
API int cuGraphAddNode_v2(void **node, void *g, void *const *before, const Edge *edges, size_t n, const AnyNode *p) {
    int early = 0;
    for (size_t i = 0; edges && i < n; i++) early += edges[i].type == 1 && edges[i].from == 1;
    CALL_IN("cuGraphAddNode", " %s %u,%u,%u after %zu early %d", (char *)p->kernel.func, p->kernel.gx, p->kernel.gy, p->kernel.gz, n, early);
    if (p->type) return 1;
    ((Graph *)g)->early += early;
    return add_node(node, g, before, n, launch_of(&p->kernel));
}
typedef struct { ptr dst; size_t pitch; unsigned value, size; size_t width, height; } FillNode;
API int cuGraphAddMemsetNode(void **node, void *g, void *const *before, size_t n, const FillNode *p, void *context) {
    CALL_IN("cuGraphAddMemsetNode", " %zu after %zu", p->width, n);
    if (p->size != 1 || p->height != 1 || context != current) return 1;
    return add_node(node, g, before, n, (Work){FILL, p->dst, 0, p->width, (int)p->value});
}
typedef struct {
    size_t src_x, src_y, src_z, src_lod; int src_type; const void *src_host; ptr src; void *src_array, *r0;
    size_t src_pitch, src_height;
    size_t dst_x, dst_y, dst_z, dst_lod; int dst_type; void *dst_host; ptr dst; void *dst_array, *r1;
    size_t dst_pitch, dst_height;
    size_t width, height, depth;
} CopyNode;
API int cuGraphAddMemcpyNode(void **node, void *g, void *const *before, size_t n, const CopyNode *p, void *context) {
    CALL_IN("cuGraphAddMemcpyNode", " %zu after %zu", p->width, n);
    if (p->src_type != 2 || p->dst_type != 2 || p->height != 1 || p->depth != 1 || context != current) return 1;
    return add_node(node, g, before, n, (Work){COPY, p->dst, p->src, p->width});
}

/* The way in: the bindings ask for every function by its unversioned name. */

#define ENTRY(name) {#name, (void *)name}
static struct { const char *name; void *function; } entries[] = {
    ENTRY(cuInit), ENTRY(cuDriverGetVersion), ENTRY(cuDeviceGetCount), ENTRY(cuDeviceGet),
    ENTRY(cuDeviceGetName), ENTRY(cuDeviceTotalMem), ENTRY(cuDeviceGetAttribute),
    ENTRY(cuDevicePrimaryCtxRetain), ENTRY(cuDevicePrimaryCtxRelease), ENTRY(cuCtxSetCurrent),
    ENTRY(cuCtxGetCurrent), ENTRY(cuGetErrorName), ENTRY(cuGetErrorString), ENTRY(cuMemGetInfo),
    ENTRY(cuMemAlloc), ENTRY(cuMemFree), ENTRY(cuMemHostAlloc), ENTRY(cuMemFreeHost),
    ENTRY(cuMemHostRegister), ENTRY(cuMemHostUnregister), ENTRY(cuMemHostGetDevicePointer),
    ENTRY(cuMemcpyHtoDAsync), ENTRY(cuMemcpyDtoHAsync), ENTRY(cuMemcpyDtoDAsync),
    ENTRY(cuMemsetD8Async), ENTRY(cuStreamCreate), ENTRY(cuStreamDestroy), ENTRY(cuStreamQuery),
    ENTRY(cuEventCreate), ENTRY(cuEventDestroy), ENTRY(cuEventRecord), ENTRY(cuEventQuery),
    ENTRY(cuEventElapsedTime), ENTRY(cuModuleLoadData), ENTRY(cuModuleUnload),
    ENTRY(cuModuleGetFunction), ENTRY(cuFuncSetAttribute), ENTRY(cuLaunchKernel),
    ENTRY(cuStreamBeginCapture), ENTRY(cuStreamEndCapture),
    {"cuGraphInstantiate", (void *)cuGraphInstantiateWithFlags},
    ENTRY(cuGraphInstantiateWithFlags), ENTRY(cuGraphDestroy), ENTRY(cuGraphExecDestroy),
    ENTRY(cuGraphLaunch), ENTRY(cuGraphCreate), ENTRY(cuGraphAddMemsetNode),
    ENTRY(cuGraphAddMemcpyNode), {"cuGraphAddKernelNode", (void *)cuGraphAddKernelNode_v2},
    {"cuGraphAddNode", (void *)cuGraphAddNode_v2},
};

API int cuGetProcAddress_v2(const char *name, void **f, int version, unsigned long long flags, int *status) {
    *f = NULL;
    if (status) *status = 1;
    if (!strcmp(name, "cuGetProcAddress") || !strcmp(name, "cuGetProcAddress_v2")) *f = (void *)cuGetProcAddress_v2;
    const char *missing = getenv("STUB_MISSING");
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (!strcmp(entries[i].name, name) && !(missing && !strcmp(missing, name))) *f = entries[i].function;
    if (!*f) return 500;
    if (status) *status = 0;
    return 0;
}
