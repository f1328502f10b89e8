/*
 * Google Benchmark behind harness.h, and main() of every benchmark: options, the environment
 * block, checksums. The only C++ of the project. Cases may run on threads of the harness; what
 * they share here is under one mutex, outside the measured time.
 */
#include "harness.h"

#include <benchmark/benchmark.h>
#include <dirent.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <vector>

extern char **environ;

struct mr_bench {
    benchmark::State &state;
    const mr_bench_case &what;
    int64_t arg;
    bool has_checksum;
    bool is_over;
};

namespace
{

struct {
    bool is_smoke = false;
    int64_t iterations = 0; /* 0 = as many as the time asks for */
    std::mutex lock;
    std::map<std::string, uint64_t> checksums; /* of a case with its argument */
    bool has_failed = false;
} run;

std::string case_name(const mr_bench_case &c, int64_t arg)
{
    return c.arg_count ? std::string(c.name) + "/" + std::to_string(arg) : c.name;
}

void fail(benchmark::State &state, const char *why)
{
    const std::lock_guard<std::mutex> guard(run.lock);
    run.has_failed = true;
    state.SkipWithError(why);
}

void run_case(benchmark::State &state, const mr_bench_case &c, int64_t arg)
{
    mr_bench b = {state, c, arg, false, false};
    c.run(&b);
    if (!b.has_checksum && !b.is_over)
        fail(state, "the case gave no checksum");
}

void register_case(const mr_bench_case &c, int64_t arg)
{
    auto *added = benchmark::RegisterBenchmark(
        case_name(c, arg).c_str(), [&c, arg](benchmark::State &state) { run_case(state, c, arg); });
    if (c.threads > 1)
        added->Threads(static_cast<int>(c.threads));
    if (c.threads > 1 || c.real_time)
        added->UseRealTime();
    if (run.iterations)
        added->Iterations(run.iterations);
}

std::string first_line(const std::string &path)
{
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

std::string cpu_name()
{
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);)
        if (line.compare(0, 10, "model name") == 0)
            return line.substr(line.find(':') + 2);
    return "unknown";
}

/* Only what costs time: "name: how" of each vulnerability the kernel works around. */
std::string mitigations()
{
    const std::string folder = "/sys/devices/system/cpu/vulnerabilities/";
    std::map<std::string, std::string> found;
    DIR *dir = opendir(folder.c_str());
    if (!dir)
        return "unknown";
    while (const dirent *entry = readdir(dir)) {
        const std::string line = first_line(folder + entry->d_name);
        if (line.compare(0, 12, "Mitigation: ") == 0)
            found[entry->d_name] = line.substr(12);
    }
    closedir(dir);
    std::string all;
    for (const auto &one : found)
        all += (all.empty() ? "" : " | ") + one.first + ": " + one.second;
    return all.empty() ? "none" : all;
}

std::string settings()
{
    std::string all;
    for (char **e = environ; *e; e++)
        if (std::strncmp(*e, "MOORING_", 8) == 0)
            all += (all.empty() ? "" : " ") + std::string(*e);
    return all.empty() ? "defaults" : all;
}

std::string build()
{
#ifdef __clang__
    std::string text = __VERSION__; /* names itself */
#else
    std::string text = "gcc " __VERSION__;
#endif
#ifdef MR_DEBUG
    text += ", debug assertions";
#endif
#ifdef BENCH_SANITIZER
    text += ", sanitizer " BENCH_SANITIZER;
#endif
#ifndef __OPTIMIZE__
    text += ", not optimised";
#endif
    return text;
}

void add_environment()
{
    utsname u = {};
    uname(&u);
    const std::string governor =
        first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    benchmark::AddCustomContext("kernel", std::string(u.sysname) + " " + u.release);
    benchmark::AddCustomContext("cpu", cpu_name());
    benchmark::AddCustomContext("governor", governor.empty() ? "unknown" : governor);
    benchmark::AddCustomContext("mitigations", mitigations());
    benchmark::AddCustomContext("build", build());
    benchmark::AddCustomContext("options", settings());
}

const char usage[] =
    "  --smoke                run everything once, as the tests do; figures mean nothing\n"
    "  --iterations=N         exactly N operations per case, for counting instructions\n"
    "and Google Benchmark's own:\n";

/* Takes our options out; the rest, behind our defaults, is Google Benchmark's. */
bool read_options(int argc, char **argv, std::vector<char *> &rest)
{
    static char once[] = "--benchmark_min_time=0.00001";
    static char five_times[] = "--benchmark_repetitions=5";
    static char aggregates[] = "--benchmark_report_aggregates_only=true";
    std::vector<char *> given;
    for (int i = 1; i < argc; i++) {
        char *end = nullptr;
        if (std::strcmp(argv[i], "--smoke") == 0) {
            run.is_smoke = true;
        } else if (std::strncmp(argv[i], "--iterations=", 13) == 0) {
            run.iterations = std::strtoll(argv[i] + 13, &end, 10);
            if (*end || run.iterations < 1)
                return false;
        } else {
            if (std::strcmp(argv[i], "--help") == 0)
                std::fputs(usage, stdout);
            given.push_back(argv[i]);
        }
    }
    rest.push_back(argv[0]);
    if (run.is_smoke && !run.iterations)
        rest.push_back(once);
    if (!run.is_smoke && !run.iterations)
        rest.insert(rest.end(), {five_times, aggregates});
    rest.insert(rest.end(), given.begin(), given.end());
    return true;
}

} // namespace

extern "C" {

bool mr_bench_next(mr_bench *b, uint32_t batch)
{
    return b->state.KeepRunningBatch(batch);
}

int64_t mr_bench_arg(const mr_bench *b)
{
    return b->arg;
}

const void *mr_bench_user(const mr_bench *b)
{
    return b->what.user;
}

unsigned mr_bench_thread(const mr_bench *b)
{
    return static_cast<unsigned>(b->state.thread_index());
}

bool mr_bench_is_smoke(const mr_bench *)
{
    return run.is_smoke;
}

uint64_t mr_bench_operations(const mr_bench *b)
{
    return static_cast<uint64_t>(b->state.iterations());
}

void mr_bench_checksum(mr_bench *b, uint64_t sum)
{
    b->has_checksum = true;
    bool is_same;
    {
        const std::lock_guard<std::mutex> guard(run.lock);
        is_same = run.checksums.emplace(case_name(b->what, b->arg), sum).first->second == sum;
    }
    if (!is_same) {
        fail(b->state, "the checksum differs from an earlier run of the same case");
        return;
    }
    char label[40];
    std::snprintf(label, sizeof label, "checksum=%016" PRIx64, sum);
    if (b->state.thread_index() == 0)
        b->state.SetLabel(label);
}

void mr_bench_bytes(mr_bench *b, uint64_t bytes_per_operation)
{
    b->state.SetBytesProcessed(static_cast<int64_t>(mr_bench_operations(b) * bytes_per_operation));
}

void mr_bench_figure(mr_bench *b, const char *name, double value)
{
    b->state.counters[name] = benchmark::Counter(value, benchmark::Counter::kAvgThreads);
}

void mr_bench_fail(mr_bench *b, const char *why)
{
    b->is_over = true;
    fail(b->state, why);
}

void mr_bench_skip(mr_bench *b, const char *why)
{
    b->is_over = true;
    b->state.SkipWithError((std::string("skipped: ") + why).c_str());
}
}

int main(int argc, char **argv)
{
    std::vector<char *> rest;
    if (!read_options(argc, argv, rest)) {
        std::fputs("--iterations takes a number above 0\n", stderr);
        return 2;
    }
    int count = static_cast<int>(rest.size());
    benchmark::Initialize(&count, rest.data());
    if (benchmark::ReportUnrecognizedArguments(count, rest.data()))
        return 2;
    add_environment();
    for (const mr_bench_case *c = mr_bench_cases; c->name; c++) {
        if (c->arg_count == 0)
            register_case(*c, 0);
        for (size_t i = 0; i < c->arg_count; i++)
            register_case(*c, c->args[i]);
    }
    const size_t ran = benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
    return run.has_failed || ran == 0 ? 1 : 0;
}
