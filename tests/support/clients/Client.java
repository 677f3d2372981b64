import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.util.Map;

/** Make TCP connect attempts and report each as one JSON line: Client HOST PORT COUNT TIMEOUT_MS. */
public final class Client {
    /** Java knows an errno only by the C library's text for it. */
    private static final Map<String, String> NAMES = Map.of(
            "Permission denied", "EACCES",
            "Cannot assign requested address", "EADDRNOTAVAIL",
            "Connection refused", "ECONNREFUSED",
            "Connection reset by peer", "ECONNRESET",
            "No route to host", "EHOSTUNREACH",
            "Invalid argument", "EINVAL",
            "Network is unreachable", "ENETUNREACH",
            "Operation not permitted", "EPERM",
            "Connection timed out", "ETIMEDOUT");

    private Client() {}

    public static void main(String[] arguments) throws IOException {
        int port = Integer.parseInt(arguments[1]);
        int count = Integer.parseInt(arguments[2]);
        int timeoutMs = Integer.parseInt(arguments[3]);
        for (int made = 0; made < count; made++) {
            attempt(arguments[0], port, timeoutMs);
        }
    }

    private static void attempt(String host, int port, int timeoutMs) throws IOException {
        String result = "ok";
        String name = null;
        Integer localPort = null;
        long started = System.nanoTime();
        double seconds;
        try (Socket socket = new Socket()) {
            try {
                socket.connect(new InetSocketAddress(host, port), timeoutMs);
                localPort = socket.getLocalPort();
            } catch (SocketTimeoutException error) {
                result = "abandoned";
            } catch (IOException error) {
                result = "error";
                name = nameOf(error);
            }
            seconds = (System.nanoTime() - started) / 1e9;
        }
        System.out.printf(
                java.util.Locale.ROOT,
                "{\"pid\":%d,\"runtime\":\"java\",\"host\":\"%s\",\"port\":%d,\"blocking\":%b,\"result\":\"%s\","
                        + "\"errno\":null,\"errno_name\":%s,\"local_port\":%s,\"seconds\":%.6f}%n",
                ProcessHandle.current().pid(), host, port, timeoutMs == 0, result,
                name == null ? "null" : '"' + name + '"', localPort, seconds);
    }

    private static String nameOf(IOException error) {
        for (Map.Entry<String, String> entry : NAMES.entrySet()) {
            if (String.valueOf(error.getMessage()).startsWith(entry.getKey())) {
                return entry.getValue();
            }
        }
        return null;
    }
}
