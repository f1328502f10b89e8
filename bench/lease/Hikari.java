import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import com.zaxxer.hikari.util.ConcurrentBag;
import com.zaxxer.hikari.util.ConcurrentBag.IConcurrentBagEntry;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.sql.Connection;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicIntegerFieldUpdater;
import javax.sql.DataSource;

/**
 * The peer HikariCP, by the protocol of harness.h. `bag`: ConcurrentBag alone, which is what the figures are
 * compared with. `pool`: a whole HikariDataSource over a driver that does nothing, leak detection on.
 *
 * The process lives for a whole run, so that what is measured is compiled code. One row per process: two
 * kinds of peers in one would make the calls of the loop virtual.
 */
final class Hikari {
    private static final int CHUNK = 256;
    private static final long PATIENCE_MS = 30_000;
    private static final ThreadMXBean CPU = ManagementFactory.getThreadMXBean();

    /*
     * Padding, so that no two conns share a cache line: fields of a class lie behind those of the class it
     * extends, while within one class the machine sorts them as it likes.
     */
    static class Before {
        long a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, aa, ab, ac, ad, ae, af;
    }

    static class Counted extends Before {
        long uses;
    }

    /** What a holder has: something to count in, as the native object of a connection would be touched. */
    static final class Handle extends Counted {
        long b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, ba, bb, bc, bd, be, bf;
    }

    interface Peer<T> {
        T take() throws Exception;

        Handle handle(T taken);

        void give(T taken) throws Exception;

        long uses();

        void close();
    }

    // ---- ConcurrentBag -----------------------------------------------------------------------

    /** State as PoolEntry of HikariCP keeps it. */
    static class State extends Before implements IConcurrentBagEntry {
        private static final AtomicIntegerFieldUpdater<State> STATE =
            AtomicIntegerFieldUpdater.newUpdater(State.class, "state");
        private volatile int state;
        final Handle handle = new Handle();

        @Override
        public int getState() {
            return STATE.get(this);
        }

        @Override
        public boolean compareAndSet(int expected, int next) {
            return STATE.compareAndSet(this, expected, next);
        }

        @Override
        public void setState(int next) {
            STATE.set(this, next);
        }
    }

    static final class Entry extends State {
        long b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, ba, bb, bc, bd, be, bf;
    }

    static final class Bag implements Peer<Entry> {
        private final ConcurrentBag<Entry> bag = new ConcurrentBag<>(waiting -> { });

        Bag(int conns) {
            for (int i = 0; i < conns; i++)
                bag.add(new Entry());
        }

        @Override
        public Entry take() throws InterruptedException {
            final Entry e = bag.borrow(PATIENCE_MS, TimeUnit.MILLISECONDS);
            if (e == null)
                throw new IllegalStateException("nothing for " + PATIENCE_MS + " ms");
            return e;
        }

        @Override
        public Handle handle(Entry e) {
            return e.handle;
        }

        @Override
        public void give(Entry e) {
            bag.requite(e);
        }

        @Override
        public long uses() {
            return bag.values().stream().mapToLong(e -> e.handle.uses).sum();
        }

        @Override
        public void close() {
            bag.close();
        }
    }

    // ---- HikariDataSource --------------------------------------------------------------------

    /** A connection of a driver that does nothing. It is found again through unwrap. */
    static final class Nothing implements InvocationHandler {
        final Handle handle = new Handle();

        @Override
        public Object invoke(Object proxy, java.lang.reflect.Method method, Object[] arguments) {
            switch (method.getName()) {
            case "unwrap":
                return handle;
            case "isValid":
            case "getAutoCommit":
            case "isWrapperFor":
                return true;
            case "hashCode":
                return System.identityHashCode(proxy);
            case "equals":
                return proxy == arguments[0];
            default:
                final Class<?> type = method.getReturnType();
                return type == boolean.class ? (Object) false : type == int.class ? (Object) 0 : null;
            }
        }
    }

    static final class Whole implements Peer<Connection> {
        private final java.util.List<Handle> handles =
            java.util.Collections.synchronizedList(new java.util.ArrayList<>());
        private final HikariDataSource source;

        Whole(int conns) throws Exception {
            final HikariConfig config = new HikariConfig();
            config.setDataSource((DataSource) Proxy.newProxyInstance(
                Hikari.class.getClassLoader(), new Class<?>[] {DataSource.class},
                (proxy, method, arguments) -> method.getName().equals("getConnection") ? connection() : none(method)));
            config.setMaximumPoolSize(conns);
            config.setMinimumIdle(conns);
            config.setConnectionTimeout(PATIENCE_MS);
            config.setLeakDetectionThreshold(60_000);
            source = new HikariDataSource(config);
            while (source.getHikariPoolMXBean().getTotalConnections() < conns)
                Thread.sleep(1);
        }

        private Connection connection() {
            final Nothing nothing = new Nothing();
            handles.add(nothing.handle);
            return (Connection) Proxy.newProxyInstance(Hikari.class.getClassLoader(),
                                                       new Class<?>[] {Connection.class}, nothing);
        }

        private static Object none(java.lang.reflect.Method method) {
            return method.getReturnType() == int.class ? (Object) 0 : null;
        }

        @Override
        public Connection take() throws java.sql.SQLException {
            return source.getConnection();
        }

        @Override
        public Handle handle(Connection c) {
            try {
                return c.unwrap(Handle.class);
            } catch (java.sql.SQLException e) {
                throw new IllegalStateException(e);
            }
        }

        @Override
        public void give(Connection c) throws java.sql.SQLException {
            c.close();
        }

        @Override
        public long uses() {
            return handles.stream().mapToLong(h -> h.uses).sum();
        }

        @Override
        public void close() {
            source.close();
        }
    }

    // ---- the harness: harness.c in Java ------------------------------------------------------

    static final class Job {
        boolean isTimed;
        int threads, conns;
        long holdNs, millis;
        boolean yields;
    }

    static final class Times {
        final long[] histogram = new long[2048];
        long max;

        void record(long value) {
            max = Math.max(max, value);
            int index = (int) value;
            if (value >= 64) {
                final int shift = 58 - Long.numberOfLeadingZeros(value);
                index = shift * 32 + (int) (value >> shift);
            }
            histogram[index]++;
        }

        void add(Times other) {
            max = Math.max(max, other.max);
            for (int i = 0; i < histogram.length; i++)
                histogram[i] += other.histogram[i];
        }

        String text(String name) {
            final StringBuilder text = new StringBuilder(",\"" + name + "\":{\"max_ns\":" + max + ",\"histogram\":[");
            String between = "";
            for (int i = 0; i < histogram.length; i++) {
                if (histogram[i] > 0) {
                    text.append(between).append('[').append(i).append(',').append(histogram[i]).append(']');
                    between = ",";
                }
            }
            return text.append("]}").toString();
        }
    }

    static final class Worker<T> extends Thread {
        final Peer<T> peer;
        final Job job;
        final CountDownLatch ready, go;
        final Stop stop;
        final Times both = new Times(), acquires = new Times();
        long pairs, ns, cpuNs;
        Exception failure;

        Worker(Peer<T> peer, Job job, CountDownLatch ready, CountDownLatch go, Stop stop) {
            this.peer = peer;
            this.job = job;
            this.ready = ready;
            this.go = go;
            this.stop = stop;
        }

        @Override
        public void run() {
            ready.countDown();
            try {
                go.await();
                final long cpu = CPU.getCurrentThreadCpuTime();
                final long begin = System.nanoTime();
                // By chunks, so that what runs is a method compiled as a whole, not a loop replaced in mid-run.
                while (!stop.now)
                    pairs += job.isTimed ? timed(peer, job.holdNs, job.yields) : plain(peer, job.holdNs, job.yields);
                ns = System.nanoTime() - begin;
                cpuNs = CPU.getCurrentThreadCpuTime() - cpu;
            } catch (Exception e) {
                failure = e;
            }
        }

        private int plain(Peer<T> p, long holdNs, boolean yields) throws Exception {
            int done = 0;
            for (; done < CHUNK && !stop.now; done++) {
                final T taken = p.take();
                p.handle(taken).uses++;
                if (holdNs > 0)
                    hold(System.nanoTime() + holdNs, yields);
                p.give(taken);
            }
            return done;
        }

        private int timed(Peer<T> p, long holdNs, boolean yields) throws Exception {
            int done = 0;
            for (; done < CHUNK && !stop.now; done++) {
                final long begin = System.nanoTime();
                final T taken = p.take();
                final long end = System.nanoTime();
                p.handle(taken).uses++;
                if (holdNs > 0)
                    hold(end + holdNs, yields);
                final long left = System.nanoTime();
                p.give(taken);
                both.record(end - begin + System.nanoTime() - left);
                acquires.record(end - begin);
            }
            return done;
        }

        private static void hold(long until, boolean yields) {
            while (System.nanoTime() < until)
                if (yields)
                    Thread.yield();
        }
    }

    static final class Stop {
        volatile boolean now;
    }

    public static void main(String[] arguments) throws Exception {
        final String row = arguments[0];
        final BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        final PrintWriter out = new PrintWriter(System.out, true);
        for (String line; (line = in.readLine()) != null;) {
            final Job job = new Job();
            final String[] words = line.split(" ");
            job.isTimed = words[0].equals("latency");
            job.threads = Integer.parseInt(words[1]);
            job.conns = Integer.parseInt(words[2]);
            job.holdNs = Long.parseLong(words[3]);
            job.yields = words[4].equals("yield");
            job.millis = Long.parseLong(words[5]);
            out.println(row.equals("pool") ? measure(new Whole(job.conns), job) : measure(new Bag(job.conns), job));
        }
    }

    private static <T> String measure(Peer<T> peer, Job job) throws Exception {
        final java.util.List<Worker<T>> workers = new java.util.ArrayList<>();
        final CountDownLatch ready = new CountDownLatch(job.threads), go = new CountDownLatch(1);
        final Stop stop = new Stop();
        for (int i = 0; i < job.threads; i++) {
            final Worker<T> w = new Worker<>(peer, job, ready, go, stop);
            workers.add(w);
            w.start();
        }
        ready.await();
        go.countDown();
        Thread.sleep(job.millis);
        stop.now = true;
        long pairs = 0, ns = 0, cpuNs = 0;
        final Times both = new Times(), acquires = new Times();
        for (Worker<T> w : workers) {
            w.join();
            if (w.failure != null)
                throw w.failure;
            pairs += w.pairs;
            ns += w.ns;
            cpuNs += w.cpuNs;
            both.add(w.both);
            acquires.add(w.acquires);
        }
        final long uses = peer.uses();
        peer.close();
        return "{\"pairs\":" + pairs + ",\"uses\":" + uses + ",\"thread_ns\":" + ns + ",\"cpu_ns\":" + cpuNs
            + both.text("both") + acquires.text("acquires") + "}";
    }
}
