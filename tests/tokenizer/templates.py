"""Chat templates in the manner of published models: their idioms, not their texts."""

from __future__ import annotations

__all__ = ["TEMPLATES"]

LLAMA_3 = """\
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%Y") %}
    {%- else %}{%- set date_string = "2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start|>system\\n" }}
{%- if tools is not none %}{{- "Tools: ipython\\n" }}{%- endif %}
{{- "Date: " + date_string + "\\n" + system_message }}
{%- for t in tools if tools is not none %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '\\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + "}" }}
    {%- else %}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant\\n' }}{%- endif %}
"""

QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not
        (message.content.startswith('<tool_response>') and message.content.endswith('>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}{{- content }}{%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>{"name": "' + tool_call.name + '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}
                {%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<user>' }}
        {%- endif %}
        {{- '<tool_response>' + content + '</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '</user>' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}
    {%- endif %}
{%- endif %}
"""

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or (message.tool_calls is defined)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
                    {%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}{{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("ids have nine letters") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool" or message["role"] == "tool_results" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}{%- set content = message.content %}{%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + "}" }}
    {%- else %}{{- raise_exception("only some roles") }}{%- endif %}
{%- endfor %}
"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}
    {%- else -%}{%- set role = message['role'] -%}{%- endif -%}
    {{ '<start>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<img>' }}
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
    {{ '<end>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start>model
'}}{%- endif -%}
"""

HERMES_TOOLS = """\
{%- macro json_to_python_type(spec) %}
{%- set map = {"string": "str", "number": "float", "integer": "int", "boolean": "bool"} %}
{%- if map[spec.type] is defined %}{{- map[spec.type] }}
{%- elif spec.type == "array" %}{{- "list[" + json_to_python_type(spec.items) + "]" }}
{%- elif spec.type is iterable and spec.type is not string %}
    {{- "Union[" + spec.type | map('upper') | join(",") + "]" }}
{%- else %}{{- "Any" }}{%- endif %}
{%- endmacro %}
{{- bos_token + '<|im_start|>system\\n<tools> ' }}
{%- for tool in tools %}
    {%- if tool.function is defined %}{%- set tool = tool.function %}{%- endif %}
    {{- tool.name + '(' }}
    {%- for name, fields in tool.parameters.properties | dictsort %}
        {{- name + ": " + json_to_python_type(fields) }}{%- if not loop.last %}, {% endif %}
    {%- endfor %}
    {{- ")\\n" }}
{%- endfor %}
{%- for m in messages %}{{- m.role }}|{{ m.content }}|{{ m.tool_calls is defined }}{% endfor %}
"""

COMMAND_R_RAG = """\
{{ bos_token }}{% set loop_messages = messages %}{% set default = 'You are kind.' %}
{{ '<results>' }}{% for document in documents %}
{{ 'Document: ' }}{{ loop.index0 }}
{% for key, value in document.items() %}{{ key }}: {{ value }}
{% endfor %}{% if not loop.last %}, {% endif %}{% endfor %}{{ '</results>' }}
{% if citation_mode is not defined or citation_mode != 'fast' %}accurate{% endif %}
{% for message in loop_messages %}
  {%- set content = message['content'] %}
  {%- if message['role'] == 'user' %}{{ '<U>' + content.strip() + '</U>' }}
  {%- elif message.role == 'system' %}{{ default if not content else content }}
  {%- else %}{{ '<A>' ~ content ~ '</A>' }}{% endif %}
{% endfor %}
"""

GRANITE = """\
{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else 'Hi' %}
{%- if tools and documents %}{%- set system = system + ' both' %}
{%- elif documents %}{%- set system = system + ' documents' %}
{%- elif thinking %}{%- set system = system + ' thinking' %}{%- endif %}
{{- '<|role|>system<|end|>' + system }}
{%- if tools %}{{- tools | tojson(indent=4) }}{%- endif %}
{%- if documents %}
    {%- for document in documents %}
{{- 'Document ' + (document['doc_id'] | string) + '\\n' + document['text'] }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] != 'assistant' %}
{{- '<|role|>' + message['role'] + '<|end|>' + message['content'] | string + eos_token }}
    {%- else %}
        {%- generation %}
{{- message['content'] ~ eos_token }}
        {%- endgeneration %}
    {%- endif %}
    {%- if loop.last and add_generation_prompt %}
{{- '<|role|>assistant' }}
        {%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}
    {%- endif %}
{%- endfor %}
"""

PHI = """\
{% for message in messages %}{% if message['role'] == 'system' and message['tools'] is defined %}\
{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] }}\
{% else %}{{'<|' + message['role'] + '|>' + message['content'] | string + '<|end|>'}}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}\
{{ eos_token }}{% endif %}"""

GPT_OSS = """\
{%- set ns = namespace(last='') %}
{%- for m in messages recursive %}
    {%- if m.role == 'assistant' and m.thinking is defined %}
        {{- '<|channel|>analysis' + m.thinking | string }}
    {%- endif %}
    {%- if 'content' in m and m['content'] %}{{- m.role + ':' + m['content'] | string }}{%- endif %}
    {%- set ns.last = m.role %}
{%- endfor %}
{{- ns.last }}{{ reasoning_effort | default('medium') }}{{ pad_token is defined }}{{ image_token }}
"""

NEMO = """\
{%- for message in messages -%}
    {%- if loop.index0 > 4 -%}{%- break -%}{%- endif -%}
    {%- if message.role == 'system' -%}{%- continue -%}{%- endif -%}
    {%- set loop_role = loop.cycle('a', 'b') -%}
    {{- loop_role -}}{{- message | tojson -}}{{- message | tojson(sort_keys=true) -}}
    {{- message | tojson(ensure_ascii=true, separators=(',', ':')) -}}
    {{- message.content | default('none', true) | string | replace('\\n', ' ') | length -}}
    {{- loop.previtem.role if loop.previtem is defined else '' -}}
    {{- message.tool_calls is defined and message.tool_calls is none -}}
    {{- message.get('name', 'nobody') -}}{{- message.items() | list | length -}}
{%- endfor -%}
{{- dict(a=1) | tojson -}}{{- dict.fromkeys(['b'], 2) | tojson -}}
{{- messages | map(attribute='role') | join(', ') -}}
{{- messages | rejectattr('role', 'equalto', 'user') | list | length -}}
{%- set parts = [] -%}
{%- for m in messages if m.role in ['user', 'assistant'] -%}
    {{- (m.role, loop.length) -}}
{%- endfor -%}
{{- "%s and %d" | format("x", 3) -}}{{- '{0}{1}'.format(1, 'b') -}}
{{- 1.0 -}}{{- 7 // 2 -}}{{- none -}}
{%- filter upper -%}shout{%- endfilter -%}
{%- macro around(n=2) -%}<{{- caller(n) -}}>{%- endmacro -%}
{%- call(x) around() -%}{{- x -}}{%- endcall -%}
"""

SCOPES = """\
{%- generation %}{% set z = 5 %}{% endgeneration %}[{{ z }}]
{%- set ns = namespace(z=1) %}{% generation %}{% set ns.z = 2 %}in {{ ns.z }}{% endgeneration %}
{{- ns.z }}{% for i in range(2) %}{% set y = i %}{% generation -%} {{ y }} {%- endgeneration %}
{% endfor %}[{{ y }}]{{ undefined_name }}{{ undefined_name is defined }}
   {% if tools is none %}no tools{% endif %}
   {%- if documents is none %} no documents{% endif %}

{# a comment #}
line
{% raw %}{{ raw }}{% endraw %}
{{ messages[0].content is string }}{{ messages[0].nothing }}
{{- messages[0]['nothing'] is undefined }}
"""

TEMPLATES: dict[str, str] = {
    "llama 3": LLAMA_3,
    "qwen": QWEN,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "hermes tools": HERMES_TOOLS,
    "command r, documents": COMMAND_R_RAG,
    "granite": GRANITE,
    "phi": PHI,
    "gpt-oss": GPT_OSS,
    "nemo": NEMO,
    "scopes": SCOPES,
}
