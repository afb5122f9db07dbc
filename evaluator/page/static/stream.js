// The messages of the log after an offset, each once, in their order. A connection that breaks is
// made anew, until the server says that nothing more comes.

const RETRY_MS = 2000;

export function follow(offset, kinds, { log, opened, lost, take, ended }) {
  let seen = offset;
  function begin() {
    const source = new EventSource(`/api/stream?offset=${seen}`);
    source.onopen = opened;
    source.onerror = () => {
      lost();
      // A browser gives up where a proxy answers in the place of the page; the page does not.
      if (source.readyState === EventSource.CLOSED) setTimeout(begin, RETRY_MS);
    };
    source.addEventListener("log", (event) => log(event.data));
    source.addEventListener("end", (event) => {
      const reply = JSON.parse(event.data);
      if (reply.state === "finished") source.close();
      ended(reply);
    });
    for (const kind of kinds) {
      source.addEventListener(kind, (event) => {
        const at = Number(event.lastEventId);
        if (at <= seen) return;
        seen = at;
        take(kind, JSON.parse(event.data), at);
      });
    }
  }
  begin();
}
