export default function Page() {
  return <p>A token endpoint at /api/token.</p>;
}
