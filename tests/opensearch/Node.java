import java.nio.file.Path;
import java.util.Map;
import org.codelibs.opensearch.runner.OpenSearchRunner;

/**
 * A single OpenSearch node for tests: `java -cp 'jars/*' Node.java DIRECTORY`.
 *
 * It takes a free port of the loopback, or -Dcitemesh.host= and -Dcitemesh.port=, writes its
 * address to DIRECTORY/node_1/logs/http.ports, and stops when its standard input closes, so it
 * never outlives the tests that started it.
 */
public class Node {
    /** Only what the tests need: a missing one would be skipped silently, so they ask `_analyze`. */
    static final String MODULES =
            String.join(
                    ",",
                    "org.opensearch.analysis.common.CommonAnalysis",
                    "org.opensearch.transport.Netty4");

    static final Map<String, String> SETTINGS =
            Map.of(
                    "http.port", System.getProperty("citemesh.port", "0"),
                    "transport.port", "0",
                    "network.host", System.getProperty("citemesh.host", "127.0.0.1"),
                    "discovery.type", "single-node",
                    "node.portsfile", "true",
                    "node.store.allow_mmap", "false",
                    "cluster.routing.allocation.disk.threshold_enabled", "false",
                    "action.auto_create_index", "false");

    public static void main(String[] arguments) throws Exception {
        OpenSearchRunner runner = new OpenSearchRunner();
        runner.setMaxHttpPort(-1);
        runner.onBuild((number, settings) -> SETTINGS.forEach(settings::put));
        runner.build(
                "-basePath", Path.of(arguments[0]).toAbsolutePath().toString(),
                "-numOfNode", "1",
                "-clusterName", "citemesh-tests",
                "-moduleTypes", modules(),
                "-printOnFailure");
        while (System.in.read() >= 0) {
            // Whoever started this node still lives.
        }
        runner.close();
        System.exit(0);
    }

    /** Module classes end in `ModulePlugin` from OpenSearch 3 on and in `Plugin` before. */
    static String modules() {
        StringBuilder found = new StringBuilder();
        for (String name : MODULES.split(",")) {
            String separator = found.length() == 0 ? "" : ",";
            found.append(separator).append(name).append(exists(name + "ModulePlugin") ? "Module" : "");
            found.append("Plugin");
        }
        return found.toString();
    }

    static boolean exists(String name) {
        try {
            Class.forName(name, false, Node.class.getClassLoader());
            return true;
        } catch (ClassNotFoundException absent) {
            return false;
        }
    }
}
