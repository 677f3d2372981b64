import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;

/** Connect to a name's addresses one after another until one answers: Failover HOST PORT TIMEOUT_MS. */
public final class Failover {
    private Failover() {}

    public static void main(String[] arguments) throws IOException {
        int port = Integer.parseInt(arguments[1]);
        int timeoutMs = Integer.parseInt(arguments[2]);
        for (InetAddress address : InetAddress.getAllByName(arguments[0])) {
            try (Socket socket = new Socket()) {
                socket.connect(new InetSocketAddress(address, port), timeoutMs);
                return;
            } catch (IOException error) {
                System.err.println(error);
            }
        }
    }
}
