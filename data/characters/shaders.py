"""GLSL of the head renderer. Colours are linear until the last line of each fragment shader.

No branches on the material: a software rasteriser computes both sides of every `if` for every pixel. Eyes, the one
material that needs its own mathematics, have their own program.
"""

_PLACE = """
uniform mat4 projection; uniform mat3 turn; uniform vec3 pivot; uniform vec3 shift;
vec4 seen(mat3 turn, vec3 position, float follow) {
    vec3 p = mix(position - pivot, turn * (position - pivot), follow) + pivot - shift;
    return projection * vec4(p.x, p.z, -p.y, 1.0);
}
vec3 facing(vec3 normal, float follow) {  // right, up, towards the camera
    vec3 n = mix(normal, turn * normal, follow);
    return vec3(n.x, n.z, -n.y);
}
"""

_LIGHT = """
uniform vec3 light, light_colour; uniform float ambient;
vec4 lit(vec3 albedo, vec3 n, float shine, float gloss) {
    float toward = dot(n, light);
    float key = max(toward, 0.0) * 0.8 + max(toward * 0.5 + 0.5, 0.0) * 0.15;
    float fill = max(dot(n, normalize(vec3(-light.x, 0.3, 0.7))), 0.0) * 0.22;
    float spark = pow(max(dot(n, normalize(light + vec3(0, 0, 1))), 0.0), gloss) * shine;
    vec3 c = albedo * (light_colour * (key + fill) + ambient * (0.75 + 0.25 * n.y)) + spark * light_colour;
    return vec4(sqrt(clamp(c, 0.0, 1.0)), 1.0);
}
"""

SURFACE_VERTEX = f"""#version 330
{_PLACE}
in vec3 position; in vec3 normal; in vec2 uv; in vec4 paint; in float shine; in float follow;
out vec3 v_normal; out vec2 v_uv; out vec4 v_paint; out float v_shine;
void main() {{
    v_normal = facing(normal, follow); v_uv = uv; v_paint = paint; v_shine = shine;
    gl_Position = seen(turn, position, follow);
}}
"""

SURFACE_FRAGMENT = f"""#version 330
{_LIGHT}
in vec3 v_normal; in vec2 v_uv; in vec4 v_paint; in float v_shine;
out vec4 colour; uniform sampler2D picture; uniform float reached;  // share of the light that gets here
void main() {{
    vec3 n = normalize(gl_FrontFacing ? v_normal : -v_normal);
    vec3 root = texture(picture, v_uv).rgb;
    colour = lit(reached * mix(root * root, v_paint.rgb, v_paint.a), n, reached * v_shine, 18.0);
}}
"""

EYE_VERTEX = f"""#version 330
{_PLACE}
in vec3 position; in vec3 normal; in vec3 eye;
out vec3 v_normal; out vec3 v_eye;
void main() {{ v_normal = facing(normal, 1.0); v_eye = position - eye; gl_Position = seen(turn, position, 1.0); }}
"""

EYE_FRAGMENT = f"""#version 330
{_LIGHT}
in vec3 v_normal; in vec3 v_eye; out vec4 colour;
uniform vec3 iris; uniform vec2 gaze;
void main() {{
    vec3 d = normalize(v_eye);
    float a = dot(d, normalize(vec3(gaze.x, -1.0, gaze.y)));
    vec3 c = mix(vec3(0.80, 0.78, 0.75), vec3(0.62, 0.42, 0.38), 0.5 * smoothstep(0.72, 0.3, -d.y));
    c = mix(c, iris * (0.55 + 0.9 * smoothstep(0.89, 0.96, a)), smoothstep(0.865, 0.885, a));
    colour = lit(mix(c, vec3(0.006), smoothstep(0.962, 0.972, a)) * 0.95, normalize(v_normal), 0.8, 90.0);
}}
"""

FLOW_VERTEX = f"""#version 330
{_PLACE}
uniform mat3 reference_turn;
in vec3 position; in vec3 reference; in float follow;
out vec3 v_reference;
void main() {{
    v_reference = seen(reference_turn, reference, follow).xyw; gl_Position = seen(turn, position, follow);
}}
"""

# Where the reference shows this point of the head, in [-1, 1] with y up; its distance in metres; what is drawn.
FLOW_FRAGMENT = """#version 330
in vec3 v_reference; out vec4 colour; uniform float label;
void main() { colour = vec4(v_reference.xy / v_reference.z, v_reference.z, label); }
"""

BACKGROUND_VERTEX = """#version 330
in vec2 corner; out vec2 uv;
void main() { uv = corner * 0.5 + 0.5; gl_Position = vec4(corner, 0.9999, 1.0); }
"""

BACKGROUND_FRAGMENT = """#version 330
in vec2 uv; out vec4 colour; uniform sampler2D picture;
void main() { colour = texture(picture, uv); }
"""
